"""ISCL, Table I below: what does each further term of the losses add to CycleGAN?"""

from cluster.imagery import Microscopy
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="iscl_losses",
    question="What does each further term of ISCL's losses add to CycleGAN?",
    method="iscl",
    axes=[grid("losses", ["A", "A+B", "A+B+C", "A+B+C+D", "A+B+C+D+E"])],
    data=Microscopy(),
    search=["losses", "nested_weight"],
    baselines=["affine_match", "affine_match_image"],
    paper=PaperTable("iscl", "table1", where={"dataset": "ldct_abdomen"}),
    plot=Bars(x="losses", facet="noise"),
)

if __name__ == "__main__":
    study.main()
