"""GAN2GAN, Fig. 2 and 5: which rule finds true noise in smooth patches, wavelets (Eq. 4) or GCBD's (Eq. 3)?"""

from cluster.imagery import GivenPhotographs
from cluster.report.figures import Bars
from cluster.report.papers import PaperTable
from cluster.study import Study, grid

study = Study(
    name="gan2gan_extraction",
    question="Which rule finds true noise in smooth patches, GAN2GAN's wavelets or GCBD's variances?",
    method="n2c_eq4",
    axes=[grid("rule", ["wavelet", "variance"])],
    data=GivenPhotographs(("gauss25", "gauss50", "mixb50"), small=2),
    base={"patch_lambda": "auto"},  # the paper names a lambda for each noise, chosen by the number of patches
    references=["gan2gan"],
    paper=PaperTable("gan2gan", "table2", also=("table3",)),
    plot=Bars(x="rule", facet="noise"),
)

if __name__ == "__main__":
    study.main()
