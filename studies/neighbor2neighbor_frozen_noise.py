"""What is one noisy copy of each image worth, as users have it, against new noise at every draw, as papers train?"""

from cluster.report.figures import Bars
from cluster.study import Photographs, Study, grid

study = Study(
    name="neighbor2neighbor_frozen_noise",
    question="How much quality rests on new noise at every draw, which a user with recorded images does not have?",
    method="neighbor2neighbor",
    axes=[grid("noise_realisation", ["fresh", "frozen"])],
    data=Photographs(noises=("gauss25", "gauss5_50", "poisson30", "poisson5_50")),
    search=["noise_realisation", "gamma"],
    plot=Bars(x="noise_realisation", facet="noise"),
)

if __name__ == "__main__":
    study.main()
