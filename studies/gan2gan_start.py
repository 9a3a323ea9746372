"""GAN2GAN, Fig. 6b and c: does it matter whether the iterations start from g2's estimate or from the noisy image?"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, joint

study = Study(
    name="gan2gan_start",
    question="Does it matter whether GAN2GAN starts from g2's estimate or from the noisy image itself?",
    method="gan2gan",
    axes=[joint(("initial", "iterations"), [("g2", 0), *((one, j) for one in ("g2", "noisy") for j in (1, 2, 3))])],
    data=GivenPhotographs(("gauss25", "mixb50", "corr25")),
    base={"patch_lambda": "auto"},  # the paper names a lambda for each noise, chosen by the number of patches
    paper=PaperTable("gan2gan", "table2", also=("table3",)),
    plot=Curve(x="iterations", facet="noise"),
)

if __name__ == "__main__":
    study.main()
