"""DANet, Table 3: how heavily should the denoiser's L1 loss weigh beside the critic?"""

from cluster.imagery import PairedPhotographs
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="danet_tau1",
    question="How heavily should the L1 loss of DANet's denoiser weigh beside the critic?",
    method="danet",
    axes=[grid("tau1", [100.0, 1000.0, 10000.0, "inf"])],
    data=PairedPhotographs(),
    search=["tau1", "tau2", "alpha"],
    objectives=("psnr", "akld"),
    baselines=["danet_l1", "fitted_noise"],
    paper=PaperTable("danet", "table3"),
    plot=Curve(x="tau1", facet="noise", metrics=("psnr", "ssim", "akld")),
)

if __name__ == "__main__":
    study.main()
