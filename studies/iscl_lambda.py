"""ISCL: how heavily should the cycle and bypass terms weigh against the critics? The paper fixes lambda = 30."""

from cluster.imagery import Microscopy
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="iscl_lambda",
    question="How heavily should ISCL's cycle and bypass terms weigh against its critics?",
    method="iscl",
    axes=[grid("nested_weight", [3, 10, 30, 100])],
    data=Microscopy(),
    search=["nested_weight", "lr"],
    baselines=["affine_match", "affine_match_image"],
    paper=PaperTable("iscl", "table3"),
    plot=Curve(x="nested_weight", facet="noise"),
)

if __name__ == "__main__":
    study.main()
