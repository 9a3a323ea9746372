"""DANet, Eq. 5: how should the critic divide its attention between denoiser and generator? The paper has 0.5 only."""

from cluster.imagery import PairedPhotographs
from cluster.report.figures import Curve
from cluster.study import Study, grid

study = Study(
    name="danet_alpha",
    question="How should DANet's critic divide its attention between denoiser and generator?",
    method="danet",
    axes=[grid("alpha", [0.1, 0.3, 0.5, 0.7, 0.9])],
    data=PairedPhotographs(),
    small={"alpha": [0.1, 0.5, 0.9]},
    search=["alpha"],
    objectives=("psnr", "akld"),
    baselines=["danet_l1", "fitted_noise"],
    plot=Curve(x="alpha", facet="noise", metrics=("psnr", "akld")),
)

if __name__ == "__main__":
    study.main()
