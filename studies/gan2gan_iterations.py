"""GAN2GAN, Tables 2 and 3: what does each further iteration add, and how much of that is only more training?"""

from cluster.imagery import GivenPhotographs
from cluster.report.controls import Control
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, joint

CHAIN = [(0, "previous"), (1, "previous"), (2, "previous"), (3, "previous")]
EQUAL_STEPS = [(2, "first"), (3, "first")]  # the same steps on the first estimates: what is gained is training time

study = Study(
    name="gan2gan_iterations",
    question="What does each further iteration of GAN2GAN add, beyond the training time that it takes?",
    method="gan2gan",
    axes=[joint(("iterations", "estimate"), CHAIN + EQUAL_STEPS)],
    data=GivenPhotographs(("gauss25", "gauss50", "mixa25", "mixb50", "corr15", "corr25")),
    base={"patch_lambda": "auto"},  # the paper names a lambda for each noise, chosen by the number of patches
    search=["generator_lr", "critic_lr", "denoiser_lr"],
    references=["n2c_eq4", "dncnn_b", "n2n_blind"],
    paper=PaperTable("gan2gan", "table2", also=("table3",)),
    plot=Curve(x="iterations", facet="noise"),
    control=Control("estimate", "first", {"iterations": 1}, "on the first estimates, without new ones"),
)

if __name__ == "__main__":
    study.main()
