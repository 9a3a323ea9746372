"""GAN2GAN, Fig. 1: how far do iterations carry Noisy N2N, whose estimates of the clean image are noisy themselves?"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Curve
from cluster.study import Study, grid

study = Study(
    name="noisy_n2n",
    question="How good must a first estimate be, if the noise is known and the denoiser is trained again and again?",
    method="noisy_n2n",
    axes=[grid("initial_sigma", [0, 5, 15, 25, 35]), grid("iterations", [1, 2, 3])],
    data=GivenPhotographs(),
    plot=Curve(x="initial_sigma", facet="noise"),
)

if __name__ == "__main__":
    study.main()
