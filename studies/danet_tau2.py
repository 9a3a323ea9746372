"""DANet, Table 4: how heavily should the generator's loss on blurred noise weigh beside the critic?"""

from cluster.imagery import PairedPhotographs
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="danet_tau2",
    question="How heavily should the loss on blurred noise of DANet's generator weigh beside the critic?",
    method="danet",
    axes=[grid("tau2", [0.0, 5.0, 10.0, 50.0, "inf"])],
    data=PairedPhotographs(),
    base={"pgap": True},
    small={"tau2": [0.0, 10.0, "inf"]},
    search=["tau1", "tau2", "alpha"],
    objectives=("psnr", "akld"),
    baselines=["danet_l1", "fitted_noise"],
    paper=PaperTable("danet", "table4"),
    plot=Curve(x="tau2", facet="noise", metrics=("akld", "pgap", "psnr")),
)

if __name__ == "__main__":
    study.main()
