"""D-BSN, Tables 1 to 3: mu of the blind spot, its fusion with the pixel, and the student that is distilled from it."""

from cluster.imagery import UnpairedPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="dbsn_stages",
    question="What do Bayes' rule and the distilled student each add to D-BSN's blind-spot estimate?",
    method="dbsn",
    axes=[grid("estimate", ["mu", "bayes", "student"])],
    data=UnpairedPhotographs(
        ("gauss25", "gauss15", "gauss50", "hg40_10"), ("gauss15", "gauss25", "gauss50", "hg40_10", "mg75")
    ),
    by_noise={
        "hg": {"noise_form": "heteroscedastic", "trace_weight": 0.02},
        "mg": {"noise_form": "multivariate"},
    },
    search=["lr", "joint_lr", "student_lr", "trace_weight"],
    references=["mwcnn_n2c", "mwcnn_n2n", "laine19"],
    paper=PaperTable("dbsn", "table1", also=("table2", "table3")),
    plot=Bars(x="estimate", facet="noise"),
)

if __name__ == "__main__":
    study.main()
