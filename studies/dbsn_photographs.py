"""D-BSN, section 3.4 and Table 4: does pixel-shuffle let it denoise real photographs, whose noise is correlated?

The paper trains on the test images; here that is ``--set transductive=true --train cc15 --clean ... --test cc15``.
"""

from cluster.imagery import RecordedPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid, joint

study = Study(
    name="dbsn_photographs",
    question="Does pixel-shuffle let D-BSN denoise real photographs, whose noise is correlated?",
    method="dbsn",
    axes=[
        joint(("pixel_shuffle", "bayer_groups"), [(1, False), (4, False), (4, True)], small=2),
        grid("estimate", ["bayes", "student"]),
    ],
    data=RecordedPhotographs(),
    base={"labels": "whole", "noise_form": "heteroscedastic", "trace_weight": 0.02},
    paper=PaperTable("dbsn", "table4"),
    plot=Bars(x="estimate", facet="noise", metrics=("psnr", "ssim")),
)

if __name__ == "__main__":
    study.main()
