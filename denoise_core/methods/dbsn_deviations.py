"""Where D-BSN's paper, its official code and this code differ."""

from __future__ import annotations

from denoise_core.method import Deviation

DEVIATIONS = (
    Deviation(
        "Model selection",
        "not stated",
        "the epoch with the best PSNR on the test set",
        "the last step, never the best on the test",
    ),
    Deviation(
        "Training images",
        "ImageNet's validation images; for real photographs the test images themselves",
        "also BSD68 and Set12, the test images with other noise; for colour the last phase on CBSD68 alone",
        "never a test image, unless `transductive = true`, which every report names",
    ),
    # ---- likelihood ----
    Deviation(
        "Likelihood",
        "the constrained one (Eq. 8), whose expansion makes the noise level too high: it tends to the residuals' "
        "deviation, sqrt(sigma^2 + error of mu^2)",
        "the ordinary one (Eq. 6), which knows only the sum of the two variances, so that any level of the noise "
        "below the smallest residuals is as good",
        "Eq. 6 from a start above; `trace_weight` adds so much of Eq. 8's trace, which prefers the larger noise where "
        "the residuals leave the choice; `likelihood = constrained` is Eq. 8",
    ),
    Deviation(
        "Where the noise level starts",
        "not stated",
        "at 4.9 / 255 whatever the noise: with Eq. 6 it may stay there, and Bayes' rule then keeps the noise",
        "`noise_start = residual`: from above, but not far, at the median over tiles of 8 x 8 of the mean square of "
        "y - mu; what is left of the mean square of all is where the variance of mu starts; `official` is the code's",
    ),
    Deviation(
        "Implausible steps",
        "not stated",
        "where a quadratic term is above 1e8 the loss is set to zero by its data, which leaves its gradients",
        "such a step is skipped: neither weights nor moments change",
    ),
    Deviation(
        "Scale of the loss",
        "sums over the pixels, with 1/2",
        "means over the pixels, divided by twice the batch; colour mu: a sum over the channels",
        "means over the pixels with 1/2, mu: means over pixels and channels; Adam's steps hardly depend on it",
    ),
    Deviation(
        "Phases",
        "one",
        "mu, then all networks (gray); mu, then the variances, then all networks (colour)",
        "the code's for gray; `variance_steps` above 0 makes it those for colour",
    ),
    # ---- networks ----
    Deviation("Blocks", "seven of each branch", "eight", "eight (`blocks`)"),
    Deviation(
        "Widest sub-branch of a block",
        "two dilated 3x3 convolutions",
        "one dilated 5x5 convolution",
        "the code's (`wide_branch`)",
    ),
    Deviation(
        "Input of the noise network",
        "the noisy image",
        "the noisy image; mu, with its gradient, where the level depends on the intensity",
        "the code's",
    ),
    Deviation(
        "Noise networks of single images",
        "every noisy image has its own",
        "one for all images",
        "one for all images in training; `noise_network = image` lets a copy go on learning on each image that is "
        "denoised, with everything else fixed",
    ),
    Deviation(
        "Multivariate noise",
        "a covariance for every pixel",
        "both covariances are averaged over the image",
        "that of the noise is averaged over the image, that of mu is not",
    ),
    Deviation(
        "Inverses",
        "not stated",
        "matrix inverses, regularised by 1e-6",
        "Cholesky factors written out, without a regulariser; log det and trace from the same factors",
    ),
    Deviation(
        "Bayes' rule",
        "Eq. 9",
        "a factor gamma of 0.9 in places, before the noise's variance in gray, before its inverse in colour",
        "Eq. 9; `fusion_gamma` multiplies the noise's covariance in both",
    ),
    Deviation(
        "Level of white noise at test time",
        "one for the image",
        "the test script takes the map that was not averaged",
        "averaged over the image, as in training",
    ),
    # ---- schedule ----
    Deviation(
        "Rate",
        "3e-4, a tenth after every 30 of 180 epochs",
        "3e-4, a tenth after 20, 40, 60, 70, 80, 90 of 100 epochs",
        "the code's; the smaller budgets use one cosine cycle at a higher rate",
    ),
    # ---- distillation ----
    Deviation(
        "Start of the student",
        "from scratch",
        "an MWCNN that was trained on clean-noisy pairs, at a rate of 1e-7",
        "from scratch at 1e-4; `warm_steps` above 0 trains on clean-noisy pairs first, and is not unpaired any more",
    ),
    Deviation(
        "Losses of the student",
        "sums over both sets, lambda = 0.1",
        "means over seven eighths of clean and one eighth of noisy crops, lambda = 0.1",
        "the code's (`noisy_share`, `distillation_lambda`)",
    ),
    Deviation(
        "Simulated level",
        "a noise network drawn at random among those of the noisy images",
        "that of the one network for the clean image, times one factor in 0.9 to 1.1 for the batch",
        "the code's, with a factor for each crop (`disturbance`)",
    ),
    Deviation(
        "Test size of the student",
        "not stated",
        "the last row and column are cut off",
        "padded by reflection to multiples of 8 and cut back: the same pixels as the first stage's",
    ),
    Deviation(
        "Colour student",
        "MWCNN",
        "not released",
        "MWCNN with twelve sub-bands",
    ),
    Deviation(
        "Real photographs",
        "pixel-shuffle by 4, networks for each Bayer phase, guided filter of radius 1 and penalty 0.01",
        "not released",
        "as the paper says (`pixel_shuffle`, `bayer_groups`); the filter guides itself; labels are made of the whole "
        "images (`labels = whole`)",
    ),
    # ---- noise ----
    Deviation(
        "Heteroscedastic noise",
        "variance alpha^2 x + delta^2",
        "(alpha x)^2 + delta^2 in training, (alpha x + delta)^2 in validation",
        "`hg40_10` is the paper's, `hgt40_10` and `hgv40_10` the code's, in training and test alike",
    ),
    Deviation(
        "Multivariate noise of the tables",
        "75^2 U Lambda U^T with random U and Lambda",
        "the entries' absolute values; in validation one covariance for all images",
        "`mg75` is the code's in validation, `mgdraw75` the paper's, drawn anew for each image",
    ),
    Deviation(
        "Test noise",
        "not stated",
        "seed 0 for every image, so that images of one size have the same noise",
        "a seed of its own for each image",
    ),
)
