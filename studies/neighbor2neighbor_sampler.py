"""Neighbor2Neighbor, Table 4: does it matter that every cell draws its own pair of neighbours?"""

from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Photographs, Study, grid

study = Study(
    name="neighbor2neighbor_sampler",
    question="Random neighbours in every cell, or one fixed pair of positions for the whole image?",
    method="neighbor2neighbor",
    axes=[grid("sampler", ["random", "fix-location"])],
    data=Photographs(noises=("gauss25", "gauss5_50", "poisson30", "poisson5_50")),
    search=["sampler", "gamma"],
    paper=PaperTable("neighbor2neighbor", "table4"),
    plot=Bars(x="sampler", facet="noise"),
)

if __name__ == "__main__":
    study.main()
