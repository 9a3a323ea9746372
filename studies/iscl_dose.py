"""ISCL, Table IV: trained at one dose of a CT scanner, how does it do at others?"""

from cluster.imagery import Tomography
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="iscl_dose",
    question="Trained at one dose of a CT scanner, how does ISCL do at other doses?",
    method="iscl",
    axes=[grid("gamma", [0, 0.5, 1])],
    data=Tomography(test_noises=("ldct1e4", "ldct5e4", "ldct1e5", "ldct5e5")),
    search=["nested_weight", "lr"],
    small={"lr": 5e-4},  # at ten times the paper's rate one small training of three turned black, as most of a slice is
    baselines=["affine_match", "affine_match_image"],
    paper=PaperTable("iscl", "table4"),
    plot=Curve(x="gamma", facet="noise"),
)

if __name__ == "__main__":
    study.main()
