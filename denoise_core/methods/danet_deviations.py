"""Where DANet's paper, its official code and this code differ."""

from __future__ import annotations

from denoise_core.method import Deviation

DEVIATIONS = (
    Deviation(
        "Role of alpha",
        "weighs the denoiser's pairs, 1 - alpha the generator's (Eq. 5)",
        "the other way round; its 0.5 hides that",
        "the paper's",
    ),
    Deviation(
        "Adversarial loss",
        "Wasserstein distance, a gradient penalty of 10",
        "one penalty for each kind of fake, weighted as its distance",
        "the code's",
    ),
    Deviation(
        "Size of a crop",
        "128",
        "128",
        "128, or any other that the critic can halve to 4 to 7; the score of smaller ones counts in denoiser and "
        "generator as much more, so that tau1 and tau2 keep their meaning",
    ),
    Deviation(
        "Order of the updates",
        "the critic n times, each time on a new batch, then denoiser and generator",
        "the same; denoiser and generator take the critic's last batch",
        "the code's",
    ),
    Deviation(
        "First weights of the U-Nets",
        "He",
        "PyTorch's default",
        "the code's; `init = he` is the paper's; in the small budgets the denoisers start as the identity",
    ),
    Deviation(
        "First weights of the critic",
        "not stated",
        "N(0, 0.02^2)",
        "the same for the published width, N(0, 0.02^2 64 / width) for others: each layer then passes on as much",
    ),
    Deviation(
        "Gaussian filter of Eq. 6",
        "a Gaussian filter",
        "5 x 5 binomial weights, which OpenCV takes where no sigma is given; borders reflected",
        "the code's",
    ),
    Deviation(
        "Length of an epoch",
        "16 x 5,000 patches",
        "16 x 5,000 patches for denoiser and generator, three times as many for the critic",
        "the code's: `paper` is 70 epochs of 15,000 steps of the critic",
    ),
    Deviation(
        "Rates",
        "halved every 10 epochs",
        "halved after 20, 30, 40, 50, 60 and 65 of 70 epochs",
        "the code's, by progress; the small budgets take one cycle for the denoisers and constant rates for the game",
    ),
    Deviation(
        "Adam of generator and critic",
        "not stated",
        "beta1 0.5, beta2 0.9",
        "the code's (`momentum`)",
    ),
    Deviation(
        "DANet+",
        "same settings as DANet",
        "batch 32 with 26 real pairs, twice the rate, L1 summed over an image, gradients clipped to a bound that "
        "shrinks to each epoch's mean norm",
        "the code's",
    ),
    Deviation(
        "Without generator, without denoiser (BaseD, BaseG)",
        "not described beyond their names",
        "not released",
        "`networks`: who plays alone has all the critic's weight; BaseG is judged by the denoiser of PGap",
    ),
    Deviation(
        "Training of PGap's denoisers",
        "the same conditions for both, not further stated",
        "not released",
        "network, L1 loss, rate, batch and number of updates of DANet's denoiser, from the same first weights; new "
        "generated noise at every step; the last step counts",
    ),
    Deviation(
        "Variance of AKLD",
        "a Gaussian filter of the squared noise (Eq. 11)",
        "7 x 7 fixed weights, borders reflected, the ratio of variances bounded to [0.1, 10]",
        "the code's",
    ),
    Deviation("Divergence of AKLD", "between vectors, a sum over pixels", "a mean over pixels", "the code's"),
    Deviation("Model selection", "not stated", "every epoch is kept", "the last step"),
)
