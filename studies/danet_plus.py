"""DANet, Table 2: what do generated pairs add to the training of the denoiser (DANet+)?"""

from cluster.imagery import PairedPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="danet_plus",
    question="What do the critic, and then generated pairs, add to a denoiser that learns from pairs?",
    method="danet",
    axes=[grid("estimate", ["plain", "dual", "plus"])],
    data=PairedPhotographs(),
    base={"plus": True},
    paper=PaperTable("danet", "table2", where={"dataset": "sidd_validation"}),
    plot=Bars(x="estimate", facet="noise", metrics=("psnr", "ssim")),
)

if __name__ == "__main__":
    study.main()
