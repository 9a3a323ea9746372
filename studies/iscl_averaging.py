"""ISCL, Algorithm 1: what do stochastic weight averaging of F and Lookahead over the critics and H contribute?"""

from cluster.imagery import Microscopy
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="iscl_averaging",
    question="What do weight averaging (SWA) and Lookahead contribute to ISCL?",
    method="iscl",
    axes=[grid("lookahead", [True, False]), grid("swa", [True, False])],
    data=Microscopy(),
    search=["lookahead", "lr"],
    baselines=["affine_match", "affine_match_image"],
    paper=PaperTable("iscl", "table3"),
    plot=Bars(x="lookahead", facet="noise"),
)

if __name__ == "__main__":
    study.main()
