"""Which images and which noise a study runs on, in the size that each budget can pay for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from denoise_core.images.named import KNOWN
from denoise_core.specification import DataSpec

Budget = Literal["smoke", "laptop", "gpu", "paper"]
BUDGETS: tuple[Budget, ...] = ("smoke", "laptop", "gpu", "paper")
"""smoke: seconds, for tests. laptop: minutes on two cores. gpu: about one GPU-hour a study. paper: as published."""


class Imagery(Protocol):
    """The images of a study."""

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """One DataSpec for each noise or fold that is compared separately."""
        ...

    def differs(self, spec: DataSpec) -> list[str]:
        """How these images and this noise differ from the paper's, a sentence each."""
        ...


@dataclass(frozen=True)
class Photographs:
    """Photographs with simulated noise, in the size that a budget can pay for.

    ``smoke`` and ``laptop`` use gray images and the first noise: ``train400`` and ``bsd68`` where the data root has
    them, else the photographs bundled with scikit-image. ``gpu`` uses colour and every noise, ``paper`` the
    paper's sets.
    """

    noises: tuple[str, ...] = ("gauss25",)
    paper_test: str = "kodak24"
    paper_repeats: int = 10

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """One DataSpec a noise."""
        noises = self.noises[:1] if budget in ("smoke", "laptop") else self.noises
        return [DataSpec(noise=noise, **self._images(budget, data_root)) for noise in noises]

    def _images(self, budget: Budget, data_root: Path | None) -> dict[str, Any]:
        def has(*names: str) -> bool:
            return data_root is not None and all((data_root / name).is_dir() for name in names)

        if budget == "paper":
            images = {"train": "imagenet_val", "test": (self.paper_test,), "channels": 3}
            return {**images, "repeats": self.paper_repeats}
        if budget == "gpu" and has("cbsd400_train", "kodak24"):
            return {"train": "cbsd400_train", "test": ("kodak24",), "channels": 3, "validation": 12}
        if budget != "smoke" and has("train400", "bsd68"):
            return {"train": "train400", "test": ("bsd68",), "channels": 1, "validation": 12}
        return {"train": "bundled_train", "test": ("bundled_test",), "channels": 1, "validation": 2}

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        published, sentences = self.specs("paper", None)[0], []
        if (spec.train, spec.test) != (published.train, published.test):
            channels = "gray" if spec.channels == 1 else "colour"
            sentences.append(f"Images: {channels}, {', '.join((spec.train, *spec.test))}, not the paper's.")
        if spec.repeats != published.repeats:
            sentences.append(f"Test: {spec.repeats} noisy copies an image against {published.repeats}.")
        return sentences


@dataclass(frozen=True)
class GivenPhotographs:
    """Gray photographs with simulated noise that is given once and for all, as GAN2GAN has them.

    ``train400`` and ``bsd68`` where the data root has them, else the photographs bundled with scikit-image. ``smoke``
    takes the first noise, ``laptop`` the first ``small``, the larger budgets every noise.
    """

    noises: tuple[str, ...] = ("gauss25",)
    small: int = 1

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        count = {"smoke": 1, "laptop": self.small}.get(budget, len(self.noises))
        images: dict[str, Any] = {"train": "bundled_train", "test": ("bundled_test",), "validation": 2}
        found = data_root is not None and all((data_root / name).is_dir() for name in ("train400", "bsd68"))
        if budget == "paper" or (budget != "smoke" and found):
            images = {"train": "train400", "test": ("bsd68",), "validation": 12}
        return [DataSpec(noise=noise, noise_realisation="frozen", **images) for noise in self.noises[:count]]

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        sentences = []
        if spec.train == "train400":
            sentences.append("Training images: BSD400 cut to 180 x 180, a fifth of the paper's pixels.")
        else:
            sentences.append(f"Training images: {spec.train}, not the paper's BSD400.")
        if spec.test != ("bsd68",):
            sentences.append(f"Test images: {', '.join(spec.test)}, not the paper's BSD68.")
        return sentences


EM = "em_isbi2012"
BLOCKS = ((0, 4), (4, 8), (8, 12), (12, 15))
"""The smooth half of em_isbi2012 (the other has grain of its own) as blocks of neighbouring slices, one a fold."""


def microscopy_fold(fold: int) -> dict[str, Any]:
    """Training, clean and test images of one of four folds: slices of one block are never in two roles.

    Of the three blocks that are not tested, the first is clean and the others are noisy. Neighbouring slices are alike,
    so where two blocks meet, one slice is left out, and never one of the test's.
    """

    def slices(block: tuple[int, int]) -> str:
        start, stop = block
        return f"{start + (start > 0)}:{stop - (stop == BLOCKS[fold][0])}"

    others = [BLOCKS[(fold + step) % len(BLOCKS)] for step in (1, 2, 3)]
    clean, *noisy = (slices(block) for block in others)
    start, stop = BLOCKS[fold]
    # settings are chosen on a slice that was left out far from the test
    left_out = next(block[0] for block in others if block[0] not in (0, stop))
    chosen = f"{left_out}:{left_out + 1}"
    return _em(EM, clean=clean, train=",".join(noisy), validation_set=chosen, test=f"{start}:{stop}")


def _em(name: str, *, test: str, **roles: str) -> dict[str, Any]:
    return {**{role: f"{name}[{images}]" for role, images in roles.items()}, "test": (f"{name}[{test}]",)}


@dataclass(frozen=True)
class Microscopy:
    """Electron microscopy with simulated film or charge noise, as it is recorded: one noisy copy an image, and clean
    images of other scenes.

    ``em_isbi2012`` where the data root has it: ``laptop`` one split, ``gpu`` its first fold with every noise, ``paper``
    all four folds. Else generated images. ``smoke`` and ``laptop`` take the first noise.
    """

    noises: tuple[str, ...] = ("film", "charge")

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        small = budget in ("smoke", "laptop")
        noises = self.noises[:1] if small else self.noises
        return [
            DataSpec(noise=noise, noise_realisation="frozen", **images)
            for images in self._images(budget, data_root)
            for noise in noises
        ]

    def _images(self, budget: Budget, data_root: Path | None) -> list[dict[str, Any]]:
        if budget == "smoke":
            return [_em("em_generated", clean="0:2", train="8:10", validation_set="18:19", test="20:22")]
        if data_root is None or not (data_root / EM).is_dir():
            return [_em("em_generated", clean="0:8", train="8:18", validation_set="18:20", test="20:32")]
        if budget == "laptop":  # slice 6 lies between clean and noisy ones, slice 12 is left out
            return [_em(EM, clean="0:6", train="7:12", validation_set="6:7", test="13:15")]
        return [microscopy_fold(fold) for fold in range(len(BLOCKS) if budget == "paper" else 1)]

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        noise = f"Noise: {spec.noise}, not the paper's."
        if spec.noise in ("film", "charge"):
            noise = (
                f"Noise: a surrogate for the paper's ({spec.noise}), whose patterns are not published; it is "
                "calibrated so that the noisy input is about as bad."
            )
        return [
            f"Images: {spec.train} noisy, {spec.clean} clean, tested on {', '.join(spec.test)}; the paper's 128 images "
            "of each kind are not published.",
            noise,
        ]


@dataclass(frozen=True)
class Tomography:
    """Computed tomography with simulated low dose in a Hounsfield window, and clean slices of other patients.

    ``ct_sample`` where the data root has it and the budget is not ``smoke``, else generated phantoms.
    """

    noises: tuple[str, ...] = ("ldct1e4",)
    test_noises: tuple[str, ...] = ("",)
    """Doses that each training is tested at; empty: its own."""
    window: Literal["abdomen", "chest"] = "abdomen"

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        noises = self.noises[:1] if budget in ("smoke", "laptop") else self.noises
        images = self._images(budget, data_root)
        return [
            DataSpec(noise=noise, test_noise=test, noise_realisation="frozen", window=self.window, **images)
            for noise in noises
            for test in self.test_noises
        ]

    def _images(self, budget: Budget, data_root: Path | None) -> dict[str, Any]:
        first = 0 if self.window == "abdomen" else 24  # of the phantoms, where the region begins
        ranges = ((0, 2), (8, 10), (20, 22)) if budget == "smoke" else ((0, 8), (8, 17), (17, 24))
        clean, train, test = (f"ct_phantom[{first + a}:{first + b}]" for a, b in ranges)
        if budget in ("gpu", "paper") and data_root is not None and (data_root / "ct_sample").is_dir():
            # by file name, so by patient: p01 to p07, p08 to p16, p17 to p22
            clean, train, test = "ct_sample[0:9]", "ct_sample[9:21]", "ct_sample[21:28]"
        return {"clean": clean, "train": train, "test": (test,), "validation": 1}

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        return [
            f"Images: {spec.train} noisy, {spec.clean} clean, tested on {', '.join(spec.test)}, in the {spec.window} "
            "window; the paper's are thousands of slices of 40 patients.",
            f"Noise of the training: {spec.noise}, simulated; the paper's training images were recorded at a quarter "
            "dose.",
        ]


@dataclass(frozen=True)
class UnpairedPhotographs:
    """Photographs with simulated noise, new at every draw as published, and clean photographs of other scenes.

    ``train400`` halved and ``bsd68`` where the data root has them, else the photographs bundled with scikit-image; the
    budgets ``gpu`` and ``paper`` add ``colour`` noises on ``cbsd400_train``, tested on ``cbsd68``, ``kodak24`` and
    ``mcmaster18``. ``smoke`` and ``laptop`` take the first noise. ``with_clean`` False leaves the clean images out,
    ``frozen`` gives every noisy image once and for all.
    """

    noises: tuple[str, ...] = ("gauss25",)
    colour: tuple[str, ...] = ()
    with_clean: bool = True
    frozen: bool = False

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        small = budget in ("smoke", "laptop")
        realisation: Literal["fresh", "frozen"] = "frozen" if self.frozen else "fresh"
        found = [(noise, self._gray(budget, data_root)) for noise in (self.noises[:1] if small else self.noises)]
        if not small and _has(data_root, "cbsd400_train", "cbsd68", "kodak24", "mcmaster18"):
            found += [(noise, self._in_colour()) for noise in self.colour]
        return [DataSpec(noise=noise, noise_realisation=realisation, **images) for noise, images in found]

    def _gray(self, budget: Budget, data_root: Path | None) -> dict[str, Any]:
        if budget == "paper" or (budget != "smoke" and _has(data_root, "train400", "bsd68")):
            return self._halved("train400", 200, 400, {"test": ("bsd68",), "validation": 12})
        return self._halved("bundled_train", 5, 8, {"test": ("bundled_test",), "validation": 1})

    def _in_colour(self) -> dict[str, Any]:
        test = ("cbsd68", "kodak24", "mcmaster18")
        return self._halved("cbsd400_train", 200, 400, {"test": test, "channels": 3, "validation": 12})

    def _halved(self, name: str, half: int, count: int, others: dict[str, Any]) -> dict[str, Any]:
        if not self.with_clean:
            return {"train": name, **others}
        return {"train": f"{name}[0:{half}]", "clean": f"{name}[{half}:{count}]", **others}

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        published = {("bsd68",), ("cbsd68", "kodak24", "mcmaster18")}
        clean = f", clean images {spec.clean} instead of DIV2K and WED" if spec.clean else ""
        sentences = [f"Training images: {spec.train} instead of ImageNet's validation images{clean}."]
        if spec.test not in published:
            sentences.append(f"Test images: {', '.join(spec.test)}, not the paper's.")
        return sentences


@dataclass(frozen=True)
class RecordedPhotographs:
    """Photographs with the noise that a camera recorded, and clean photographs of other scenes.

    ``polyu_sample`` to learn from and ``cc15`` to test on where the data root has them; else bundled photographs with
    correlated noise, which only stand in for them.
    """

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        if budget == "paper" or (budget != "smoke" and _has(data_root, "polyu_sample", "cc15", "cbsd400_train")):
            images: dict[str, Any] = {"train": "polyu_sample", "clean": "cbsd400_train[0:100]", "test": ("cc15",)}
            return [DataSpec(noise="recorded", noise_realisation="frozen", channels=3, validation=2, **images)]
        images = {"train": "bundled_train[0:5]", "clean": "bundled_train[5:8]", "test": ("bundled_test",)}
        return [DataSpec(noise="corr25", noise_realisation="frozen", validation=1, **images)]

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        if spec.noise != "recorded":
            return ["Images: bundled photographs with simulated correlated noise, not a camera's."]
        return [f"Training images: {spec.train}, other cameras and scenes than the test's, on which the paper trains."]


@dataclass(frozen=True)
class PairedPhotographs:
    """Pairs of a noisy and a clean image, given once and for all, in colour.

    ``smoke`` and ``laptop`` take photographs with camera-like simulated noise (``cbsd400_train`` and ``cbsd68`` where
    the data root has them, else bundled ones). ``gpu`` takes recorded pairs, split by scene: two sets of photographs
    and, gray, one of fluorescence microscopy. ``paper`` is SIDD.
    """

    noise: str = "camera25_5"

    def specs(self, budget: Budget, data_root: Path | None) -> list[DataSpec]:
        """See :class:`Imagery`."""
        if budget == "paper":
            # none set aside, as in the paper: neighbouring patches of an image overlap
            return [_recorded("sidd_medium", ("sidd_validation",), channels=3)]
        found = [name for name in SCENES if _has(data_root, KNOWN[name].folder or name)]
        if budget == "gpu" and found:
            return [self._split(name) for name in found]
        images: dict[str, Any] = {"train": "bundled_train", "test": ("bundled_test",), "validation": 1}
        if budget != "smoke" and _has(data_root, "cbsd400_train", "cbsd68"):
            images = {"train": "cbsd400_train[0:96]", "test": ("cbsd68[0:24]",), "validation": 4}
        return [DataSpec(noise=self.noise, noise_realisation="frozen", channels=3, **images)]

    @staticmethod
    def _split(name: str) -> DataSpec:
        train, test = SCENES[name]
        return _recorded(f"{name}[{train}]", (f"{name}[{test}]",), channels=KNOWN[name].channels, validation=1)

    def differs(self, spec: DataSpec) -> list[str]:
        """See :class:`Imagery`."""
        if spec.train == "sidd_medium":
            return []
        if spec.noise == "recorded":
            return [f"Images: {spec.train}, tested on {', '.join(spec.test)}, recorded pairs, not the paper's of SIDD."]
        return [
            f"Images: {spec.train}, tested on {', '.join(spec.test)}, with simulated noise ({spec.noise}); the paper's "
            "are recorded by smartphones."
        ]


SCENES: Mapping[str, tuple[str, str]] = {
    "cc15": ("0:2,4:9,11:14", "2,3,9,10,14"),  # 0 and 4, 1 and 8, 2 and 3, 6 and 13 show one scene each
    "polyu_sample": ("0:2,4:9,10,12:15,16,17,19", "2,3,9,11,15,18"),
    "w2s": ("0:10", "10:15"),
}
"""Training and test images of sets of recorded pairs; no scene is on both sides."""


def _recorded(train: str, test: tuple[str, ...], **others: Any) -> DataSpec:
    images: dict[str, Any] = {"train": train, "test": test, **others}
    return DataSpec(noise="recorded", noise_realisation="frozen", **images)


def _has(data_root: Path | None, *names: str) -> bool:
    return data_root is not None and all((data_root / name).is_dir() for name in names)
