"""GAN2GAN, Fig. 6a: what do the critic of noisy images, the cycle and the sigmoid do for the first estimate?"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Bars
from cluster.study import Study, grid

study = Study(
    name="gan2gan_losses",
    question="What do GAN2GAN's critic of noisy images, its cycle and its sigmoid contribute to the first estimate?",
    method="gan2gan",
    axes=[grid("variant", ["full", "no L_Z", "no L_cyc", "no sigmoid"])],
    data=GivenPhotographs(),
    base={"iterations": 0, "patch_lambda": "auto"},
    plot=Bars(x="variant", facet="noise"),
)

if __name__ == "__main__":
    study.main()
