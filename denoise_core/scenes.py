"""The test images of a study as criteria without clean images see them: noisy frames of scenes, and their noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache

from torch import Tensor

from denoise_core.images.image_set import ImageSet
from denoise_core.metrics.clean_free import AUTO, Choice, Criterion, Denoise, choose, criterion
from denoise_core.metrics.facts import Facts, Scene
from denoise_core.noise.models import RECORDED, NoiseModel, simulated_noise
from denoise_core.seeding import generator

FRAMES = 3
"""Frames of each scene where noise is simulated: as many as a criterion asks for at most."""


class Scenes:
    """The scenes of an image set: several frames where noise is simulated, of recorded noise those that there are.

    Single images with recorded noise are noisy themselves. What a criterion of single images knows of the noise is
    measured from first frames only, as somebody has them who has no more.
    """

    def __init__(self, images: ImageSet, noise: NoiseModel | None):
        self.images, self._noise = images, noise

    @cached_property
    def all(self) -> list[Scene]:
        """Every scene."""
        return [self._scene(index) for index in range(len(self.images))]

    @cached_property
    def frames(self) -> Facts:
        """What is known from all frames."""
        return Facts(self.all)

    @cached_property
    def singles(self) -> Facts:
        """What is known from the first frames."""
        return Facts([Scene(scene.image_id, scene.frames[:1]) for scene in self.all])

    @property
    def known(self) -> Facts:
        """What somebody knows who has these images: of simulated noise from one frame each."""
        return self.singles if self._noise is not None else self.frames

    def facts(self, one: Criterion) -> Facts:
        """What is known of the noise to this criterion."""
        return self.frames if one.several_frames else self.singles

    def values(
        self, names: Sequence[str], index: int, denoise: Denoise, part: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[str, float]]:
        """(criterion, dB) of one scene; what cannot be computed of it is left out.

        With ``part`` of a part of its frames; what is known of the noise is that of the whole.
        """
        scene = self.all[index]
        if part is not None:
            scene = Scene(scene.image_id, tuple(part(frame) for frame in scene.frames))
        for name in names:
            one = criterion(name)
            facts = self.facts(one)
            if facts.frames >= one.least:
                value = one.decibels(denoise, scene, facts)
                if math.isfinite(value):
                    yield name, value

    def _scene(self, index: int) -> Scene:
        name, image = self.images.ids[index], self.images.pixels[index].cpu()
        if self._noise is None:
            noisy = image if self.images.noisy is None else self.images.noisy[index].cpu()
            further = self.images.frames[index] if self.images.frames is not None else ()
            return Scene(name, (noisy, *(frame.cpu() for frame in further)))
        return Scene(name, tuple(self._frame(self._noise, name, image, number) for number in range(FRAMES)))

    @staticmethod
    def _frame(noise: NoiseModel, name: str, clean: Tensor, number: int) -> Tensor:
        return noise(clean[None], generator("test", name, noise.name, number))[0]  # the first is what is evaluated


@lru_cache(maxsize=8)
def scenes(images: ImageSet, noise: str) -> Scenes:
    """The scenes of a set, whose noise is measured once a process; ``noise`` by name, or recorded."""
    return Scenes(images, None if noise == RECORDED else simulated_noise(noise))


def chosen(name: str, seen: Scenes) -> Choice:
    """The criterion of that name, or by ``auto`` the strongest that single frames license. Raises UserError.

    Simulated noise could be drawn as often as one likes; whoever asks for ``auto`` wants to know what would be chosen
    on images of which there is one each.
    """
    return choose(name, seen.known if name == AUTO else seen.facts(criterion(name)))
