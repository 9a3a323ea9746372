"""Neighbor2Neighbor, Table 3: how strongly should the two sub-images be tied?"""

from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Photographs, Study, grid

study = Study(
    name="neighbor2neighbor_gamma",
    question="How strongly should Neighbor2Neighbor tie its two sub-images?",
    method="neighbor2neighbor",
    axes=[grid("gamma", [0, 2, 8, 20])],
    data=Photographs(noises=("gauss25", "gauss5_50", "poisson30", "poisson5_50")),
    search=["gamma", "lr"],
    references=["n2c", "n2n"],
    paper=PaperTable("neighbor2neighbor", "table3"),
    plot=Curve(x="gamma", facet="noise"),
)

if __name__ == "__main__":
    study.main()
