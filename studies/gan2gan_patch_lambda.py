"""GAN2GAN, S.M. Table 3: how strict should the rule for smooth patches be? (lambda of Eq. 4)

Each noise has a range of its own: --noise corr25 --set patch_lambda=0.15,0.11,0.1 and --noise mixa25 --set
patch_lambda=0.1,0.05,0.025 are the paper's others.
"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Curve
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="gan2gan_patch_lambda",
    question="How strict should GAN2GAN be about smooth patches?",
    method="gan2gan",
    axes=[grid("patch_lambda", [0.03, 0.01, 0.0075]), grid("iterations", [0, 2])],
    data=GivenPhotographs(),
    search=["patch_lambda"],
    # patches of 64 pixels vary more than the paper's of 96, and smaller sets have fewer smooth ones
    small={"patch_lambda": [0.02, 0.03, 0.06]},
    paper=PaperTable("gan2gan", "table_s3"),
    plot=Curve(x="patch_lambda", facet="noise"),
)

if __name__ == "__main__":
    study.main()
