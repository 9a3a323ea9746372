"""D-BSN, Eq. 6 and 8: which likelihood finds the noise level, from which start, and does Bayes' rule then help?

The paper prints no numbers for it. Eq. 6 knows only the sum of the noise's variance and that of mu, so that its start
decides; Eq. 8 favours the noise, and finds too much of it. The last setting has the paper's blocks.
"""

from cluster.imagery import UnpairedPhotographs
from cluster.report.figures import Bars
from cluster.study import Study, grid, joint

SETTINGS = [
    ("ordinary", 0.0, "residual", "5x5"),
    ("ordinary", 0.0, "official", "5x5"),
    ("constrained", 0.0, "residual", "5x5"),
    ("ordinary", 0.1, "residual", "5x5"),
    ("ordinary", 0.0, "residual", "3x3"),
]

study = Study(
    name="dbsn_likelihood",
    question="Which likelihood finds the noise level, and does fusing mu with the pixel then help?",
    method="dbsn",
    axes=[
        joint(("likelihood", "trace_weight", "noise_start", "wide_branch"), SETTINGS, small=3),
        grid("estimate", ["mu", "bayes"]),
    ],
    data=UnpairedPhotographs(("gauss25", "hg40_10"), with_clean=False),
    base={"distil": False},
    by_noise={"hg": {"noise_form": "heteroscedastic"}},
    plot=Bars(x="estimate", facet="noise"),
)

if __name__ == "__main__":
    study.main()
