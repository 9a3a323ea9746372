"""GAN2GAN, S.M. Table 11: a second noisy image as the target, or the estimate itself?"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="gan2gan_pairs",
    question="Should GAN2GAN's denoiser learn from pairs of noisy images, or towards the estimate itself?",
    method="gan2gan",
    axes=[grid("pair", ["two", "estimate"])],
    data=GivenPhotographs(("gauss25", "mixb30", "corr25")),
    base={"patch_lambda": "auto"},  # the paper names a lambda for each noise, chosen by the number of patches
    paper=PaperTable("gan2gan", "table_s11"),
    plot=Bars(x="pair", facet="noise"),
)

if __name__ == "__main__":
    study.main()
