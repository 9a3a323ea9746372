"""ISCL, Fig. 9: how much of the denoiser F and how much of the noise extractor H should the result hold?"""

from cluster.imagery import Microscopy
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="iscl_gamma",
    question="How should ISCL mix its two answers, F(x) and x - H(x)?",
    method="iscl",
    axes=[grid("gamma", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])],
    data=Microscopy(),
    search=["nested_weight", "lr"],
    baselines=["affine_match", "affine_match_image"],
    paper=PaperTable("iscl", "table3"),
    plot=Curve(x="gamma", facet="noise", metrics=("psnr", "ssim")),
)

if __name__ == "__main__":
    study.main()
