"""GAN2GAN, S.M. Table 3: how strict should the rule for smooth patches be? (lambda of Eq. 4)

The paper's values (0.03, 0.01 and 0.0075 for Gaussian noise, 0.1, 0.05 and 0.025 for mixtures, 0.15, 0.11 and 0.1 for
correlated noise: --set patch_lambda=...) need images of 321 x 481; of 180 x 180 they keep fewer patches than a batch.
"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="gan2gan_patch_lambda",
    question="How strict should GAN2GAN be about smooth patches?",
    method="gan2gan",
    axes=[grid("patch_lambda", [0.06, 0.1, 0.15]), grid("iterations", [0, 2])],
    data=GivenPhotographs(),
    search=["patch_lambda"],
    small={"patch_lambda": [0.02, 0.03, 0.06]},
    paper=PaperTable("gan2gan", "table_s3"),
    plot=Curve(x="patch_lambda", facet="noise"),
)

if __name__ == "__main__":
    study.main()
