"""Where ISCL's paper and its official code disagree, and what is done here."""

from __future__ import annotations

from denoise_core.method import Deviation

DEVIATIONS = (
    Deviation(
        "Order of the updates",
        "F and G, critics, H",
        "critics, F and G, H",
        "the code's; `order = generators first` is the paper's",
    ),
    Deviation(
        "Hinge",
        "min(0, 1 - D(real)) + min(0, D(fake)), minimised, which has the wrong sign",
        "relu(1 - D(real)) + relu(D(fake)): fakes are pushed below 0, not below -1",
        "the code's; `margin = 1` is the usual hinge",
    ),
    Deviation(
        "Moments at test time",
        "not stated",
        "those of the batch, which is one image: the batch part equals the instance part whatever rho is",
        "running means of the moments on noisy crops (`statistics = running`): H was trained with moments of a batch, "
        "and with those of one image it lost 0.2 to 2.0 dB in six small trainings, the mixture up to 0.8 dB, which "
        "bends the curve over gamma; `statistics = batch` is the code's",
    ),
    Deviation(
        "Stochastic weight averaging",
        "the averaged weights are returned",
        "averaged, but never put into the networks: the last raw weights are tested",
        "the paper's, running moments averaged as well; `swa = False` is the code's",
    ),
    Deviation("Averaging starts", "at an epoch that is not stated", "at 60 % of the steps", "the code's (`swa_start`)"),
    Deviation("Last learning rate", "1e-6", "1e-7", "the code's; `final_lr = 0.01` is the paper's"),
    Deviation(
        "Number of steps",
        "not stated, early stopping",
        "8,000 (20 epochs of 400)",
        "the code's, and the last step: choosing a step would need clean images of the noisy ones",
    ),
    Deviation(
        "Patches",
        "random crops of 64 x 64",
        "fixed tiles of 64 x 64, nearly in order: the shuffle buffer holds 48 of 24,576",
        "random crops; each epoch takes one of every image, in an order of its own",
    ),
    Deviation(
        "Augmentation",
        "rotation and mirroring",
        "five of the eight orientations, three of them twice, by a slip in the loop",
        "all eight; `augmentation = official` is the code's",
    ),
    Deviation(
        "Pairs within a batch",
        "random",
        "noisy and clean tiles from the same position, in the same orientation",
        "positions and orientations are drawn independently",
    ),
    Deviation(
        "Sides at test time",
        "not stated",
        "must be multiples of 4",
        "reflected at the bottom and the right up to a multiple of 4, and cut again",
    ),
    Deviation(
        "RAdam",
        "RAdam",
        "TensorFlow Addons, which adds 1e-7 to the root after the bias correction",
        "PyTorch's, which adds it before: at most 1e-6 of difference in the first rectified steps",
    ),
    Deviation(
        "Lookahead at the end",
        "the slow weights are returned",
        "the fast weights are tested",
        "the code's: at most five steps beyond the slow ones, at a rate of nearly zero",
    ),
    Deviation(
        "x - H(x) before mixing",
        "not clipped",
        "clipped in one path, not in the one that results are made with",
        "not clipped; the mixture is",
    ),
    Deviation(
        "Charge and film noise",
        "patterns cut from real images; charge is added, film multiplied",
        "not released; a note says that the charge images were multiplied with film noise",
        "surrogates with stated formulas, calibrated so that the noisy inputs are as bad as the paper's",
    ),
    Deviation(
        "Small networks",
        "F and G of 32 channels and 3 blocks, H of 20 layers, patches of 64",
        "the same",
        "the same in `gpu` and `paper`; `smoke` and `laptop` use networks of a twentieth of the size on patches of 32, "
        "at ten times the learning rate, for some hundred steps",
    ),
)
