"""D-BSN, Eq. 4: how heavily should the first stage's results weigh beside clean images with simulated noise?

The paper sets lambda to 0.1 and says nothing of other values. All of them learn from the same first stage of a seed,
and from the same results of it, for equally many steps.
"""

from cluster.imagery import UnpairedPhotographs
from cluster.report.figures import Curve
from cluster.study import Study, grid

study = Study(
    name="dbsn_distillation_lambda",
    question="How heavily should D-BSN's own results weigh beside clean images when its student is distilled?",
    method="dbsn",
    axes=[grid("distillation_lambda", [0, 0.01, 0.1, 1]), grid("noisy_share", [0.125, 0.5])],
    data=UnpairedPhotographs(("gauss25", "gauss50", "hg40_10"), frozen=True),
    base={"labels": "whole"},
    by_noise={"hg": {"noise_form": "heteroscedastic", "trace_weight": 0.02}},
    small={"noisy_share": [0.125]},
    search=["distillation_lambda", "noisy_share"],
    references=["mwcnn_n2c"],
    plot=Curve(x="distillation_lambda", facet="noise"),
)

if __name__ == "__main__":
    study.main()
