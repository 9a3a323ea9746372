"""GAN2GAN, S.M. Fig. 1: how should the generators weigh noise, noisy image and cycle? (alpha, beta, gamma)"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Bars
from cluster.study import Study, joint, log

study = Study(
    name="gan2gan_loss_weights",
    question="How should GAN2GAN's generators weigh noise, noisy image and cycle?",
    method="gan2gan",
    axes=[joint(("noise_weight", "noisy_weight", "cycle_weight"), [(5, 1, 10), (1, 1, 1), (5, 1, 1), (1, 1, 10)])],
    data=GivenPhotographs(),
    base={"iterations": 0, "patch_lambda": "auto"},
    search=[log("noise_weight", 0.5, 20), log("noisy_weight", 0.1, 10), log("cycle_weight", 1, 50)],
    plot=Bars(x="noise_weight", facet="noise"),
)

if __name__ == "__main__":
    study.main()
