"""Where GAN2GAN's paper, its official code and this code differ."""

from __future__ import annotations

from denoise_core.method import Deviation

DEVIATIONS = (
    Deviation(
        "Model selection",
        "the last epoch, no validation set",
        "by default the epoch with the best PSNR on the test set, if it beats the iteration before",
        "the last step",
    ),
    # ---- smooth patches ----
    Deviation(
        "Windows",
        "at a stride of 24",
        "without the last aligned one of each row and column (a strict <)",
        "with it",
    ),
    Deviation(
        "Which smooth patches",
        "20,000 for BSD; 100,000 in the supplement's table of lambda",
        "the first found in the order of the files, up to a maximum",
        "a seeded choice of 20,000 among those of all images (`max_patches`); an image of 321 x 481 has 170 windows",
    ),
    Deviation(
        "Lambda",
        "one for each kind of noise, chosen by the number of patches",
        "the same; for CT 0.15 in the place of the paper's 0.015, which keeps few patches or none",
        "`patch_lambda`; `auto` takes 3 % of the windows, at least four batches, at most 10,000",
    ),
    Deviation("Mean that is removed", "the patch's", "that of the crop, after the flips", "the crop's"),
    Deviation("Clipped images", "not treated", "not treated", "windows with over 1 % of saturated pixels are no noise"),
    # ---- images of the training ----
    Deviation(
        "Noisy crops",
        "as many as smooth patches",
        "a fixed list of 96 x 96, for the denoisers 20,500 of 120 x 120; each is cut to 64 x 64 when it is used",
        "cut from the whole images at every step; their noise is given once and never drawn anew",
    ),
    Deviation(
        "Pairs within a batch",
        "random",
        "noisy crop i with smooth patch i, cut at the same place, in an order of its own each epoch",
        "drawn independently; the flips of a pair are the same, as in the code",
    ),
    Deviation("Flips", "not stated", "left to right and upside down, probability 1/2 each, no rotations", "the code's"),
    Deviation(
        "Correlated noise",
        "standard deviation σ, weight 1/sqrt 2",
        "weight 0.7 and a window that leaves out a neighbour, not the pixel itself: 0.78 σ",
        "the code's, `corr25`; `corrn25` has the deviation that the paper claims",
    ),
    Deviation(
        "Gray images",
        "BSD400 and BSD68 in gray",
        "weights 0.299, 0.587, 0.144, a slip that makes the test images up to 3 % brighter",
        "gray sets as they are, else 0.2989, 0.5870, 0.1140",
    ),
    # ---- networks ----
    Deviation(
        "Strides of g1",
        "1 in the fourth layer, an ordinary convolution at the end",
        "2, transposed at the end: 64 x 64 pixels",
        "the code's; other patch sizes have a layer more or less",
    ),
    Deviation("Output of the critics", "64 x 64", "5 x 5 scores and their mean", "the code's"),
    Deviation("Networks for CT", "17-layer DnCNN", "a U-Net for g2, g3 and the denoisers", "`network = unet`"),
    Deviation(
        "Sides for the U-Net",
        "not stated",
        "must be multiples of 32",
        "reflected up to a multiple of 32, and cut again",
    ),
    # ---- W-GAN ----
    Deviation(
        "Critics' optimiser",
        "Adam in Algorithm 1, RMSprop in the supplement",
        "RMSprop",
        "RMSprop",
    ),
    Deviation(
        "Critics' rate",
        "5e-5 in Algorithm 1, 5e-4 in the supplement",
        "5e-5, constant",
        "5e-5, constant (`critic_lr`)",
    ),
    Deviation(
        "Decay of the generators' rate",
        "linear from epoch 10 of 30",
        "one epoch late: full to the 12th epoch, a tenth in the last",
        "the code's, in parts of the training instead of epochs",
    ),
    Deviation(
        "Fakes",
        "not stated",
        "made anew for each of the critics' steps, from the same noisy images and vectors",
        "made once: the same updates in about half the time; batch normalisation in g1 and g2 counts them as often",
    ),
    Deviation(
        "Gradients of g3",
        "not stated",
        "in the first published version never set to zero, corrected later",
        "zero before every step",
    ),
    Deviation("No L_Z", "L_Z left out (Fig. 6a)", "not released", "f2 is not trained; g2 learns from L_cyc alone"),
    # ---- denoisers ----
    Deviation(
        "Length of an iteration",
        "50 epochs, halved every 20, batches of 4",
        "30, halved every 10, batches of 128 (microscopy) or 4 (CT)",
        "the paper's in `paper`, as parts of the training; `gpu` has batches of 64",
    ),
    Deviation(
        "Start of an iteration",
        "denoisers are trained one after the other",
        "G2G1 from PyTorch's initial weights, later ones from those before; optimiser and rate begin anew",
        "the code's",
    ),
    Deviation(
        "Control with equal steps",
        "none: a later iteration has also been trained for longer",
        "none",
        "`estimate = first` trains later iterations on the first estimates",
    ),
    # ---- evaluation ----
    Deviation(
        "Range of SSIM",
        "not stated",
        "maximum minus minimum of the denoised image",
        "the code's under `gan2gan`, 1 under `canonical`",
    ),
    Deviation(
        "Clipping before PSNR",
        "not stated",
        "prediction and target to [0, 1]",
        "the prediction; targets lie in [0, 1]",
    ),
    # ---- budgets ----
    Deviation(
        "Small networks",
        "174,448 parameters (g1), 2,634,369 (a critic), DnCNNs of 15 and 17 layers, patches of 64",
        "the same",
        "the same in `gpu` and `paper`; in `laptop` critics of a sixteenth and DnCNNs of a tenth, on patches of 32 and "
        "windows of 64, for some hundred steps, the W-GAN at twice the rates; `smoke` only runs",
    ),
)
