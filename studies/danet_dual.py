"""DANet, Tables 5 and 6: what do denoiser and generator gain from playing against one critic together?"""

from cluster.imagery import PairedPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, joint

study = Study(
    name="danet_dual",
    question="What do DANet's denoiser and generator gain from playing against one critic together?",
    method="danet",
    axes=[joint(("networks", "pgap"), [("denoiser", False), ("generator", True), ("both", True)])],
    data=PairedPhotographs(),
    baselines=["danet_l1", "fitted_noise"],
    paper=PaperTable("danet", "table5", also=("table6",)),
    plot=Bars(x="networks", facet="noise", metrics=("psnr", "ssim", "akld", "pgap")),
)

if __name__ == "__main__":
    study.main()
