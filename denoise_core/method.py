"""What a denoising method is: networks, phases, updates and inference. No optimizer call, no loop, no data loading.

A subclass of :class:`Method` is found by the place of its file in ``denoise_core/methods``: there is no
list to edit.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from denoise_core.config import MethodConfig
from denoise_core.diagnostics import Diagnostic
from denoise_core.errors import UserError, nearest
from denoise_core.images.source import ImageSource
from denoise_core.inference import HALO
from denoise_core.schedule import Schedule, constant
from denoise_core.seeding import generator

Denoise = Callable[[Tensor], Tensor]
"""(N, C, H, W) noisy -> denoised, both in [0, 1]."""
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Assumptions:
    """What a method needs to be true of the noise, and which fields of the images it trains on."""

    zero_mean: bool
    pixel_independent: bool
    signal_independent: bool
    fields: tuple[str, ...]
    given: bool = False
    """Whether the noisy images must be given once and for all (``noise_realisation = frozen``)."""


@dataclass(frozen=True)
class Deviation:
    """One point on which paper and official code disagree, or on which we depart from both."""

    topic: str
    paper: str
    code: str
    ours: str


@dataclass(frozen=True)
class Citation:
    """What to cite for a method: authors, title, place and year; and where it can be read."""

    text: str
    url: str


@dataclass(frozen=True)
class Group:
    """Networks that one optimizer steps. ``clip`` may change their gradients before each step, ``after`` runs after it
    (weight clipping, Lookahead, averaging)."""

    networks: tuple[nn.Module, ...]
    optimizer: Optimizer
    schedule: Schedule = constant
    clip: Callable[[Sequence[nn.Parameter]], None] | None = None
    after: Callable[[], None] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """The group's parameters in a fixed order."""
        return [parameter for network in self.networks for parameter in network.parameters()]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own groups; ``needs`` names the image fields.

    It takes ``share`` times the recipe's steps. What a phase leaves behind can serve every training that begins alike:
    ``depends`` names the kinds of parameters (``Param.affects``) that matter from this phase on, beside ``data`` and
    ``training`` and those of the phases before it; ``keeps`` the networks that matter after it (empty: all), ``uses``
    those that :meth:`Method.enter` made for it, beside those of its groups.
    """

    name: str
    groups: Mapping[str, Group]
    needs: tuple[str, ...]
    patch: int
    batch: int
    share: float = 1.0
    depends: tuple[str, ...] = ()
    keeps: tuple[nn.Module, ...] = ()
    uses: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Update:
    """One optimizer step: backpropagate ``loss`` into ``group`` and step it. ``logs`` are scalars for the curves.

    Where ``valid``, a single bool, is False on any rank, nothing is stepped: neither weights nor moments change; the
    group's ``after`` runs all the same. The optimizer must be a fused one, which can be told so without waiting for the
    device.
    """

    group: str
    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None


class Context:
    """Where a training is, and its random draws.

    Draws are made for the global batch and cut to this rank's part, so that the same training on any number of ranks
    sees the same numbers.
    """

    def __init__(self, seed: int, phase: str, step: int, steps: int, device: torch.device, rank: int, world: int):
        self.phase, self.step, self.steps, self.device = phase, step, steps, device
        self.rank, self.world = rank, world
        self._generator = generator(seed, phase, "draws", step, device=device)

    @property
    def progress(self) -> float:
        """Part of the phase that is done, in [0, 1)."""
        return self.step / self.steps

    def randint(self, high: int, shape: Sequence[int]) -> Tensor:
        """Whole numbers in [0, high), int64, of ``shape``, whose first dimension is this rank's batch."""
        whole = (shape[0] * self.world, *shape[1:])
        return self._mine(torch.randint(high, whole, generator=self._generator, device=self.device))

    def rand(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1) of ``shape``, whose first dimension is this rank's batch."""
        whole = (shape[0] * self.world, *shape[1:])
        return self._mine(torch.rand(whole, generator=self._generator, device=self.device))

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of ``shape``, whose first dimension is this rank's batch."""
        whole = (shape[0] * self.world, *shape[1:])
        return self._mine(torch.randn(whole, generator=self._generator, device=self.device))

    def over_ranks(self, value: Tensor) -> Tensor:
        """The mean over the ranks of what each has of ``value``, the same on all of them; without a gradient."""
        mean = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(mean)
            mean /= self.world
        return mean

    def _mine(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.world)[self.rank]


@dataclass(frozen=True)
class Recipe:
    """How one budget trains: number of steps, changes to the method's defaults, numerics."""

    steps: int
    config: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False


class Method(nn.Module):
    """Base of all methods. Subclasses set the class variables and define ``phases``, ``updates`` and ``denoise``."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raise it when a change alters results: stored trials of the old version are then not used any more."""
    title: ClassVar[str]
    lineage: ClassVar[str] = ""
    """Methods of one lineage share phases that are alike; empty: only trainings of this method do."""
    Config: ClassVar[type[MethodConfig]]
    assumes: ClassVar[Assumptions]
    protocol: ClassVar[str]
    """The paper's own metric protocol (denoise_core.metrics)."""
    whole_images: ClassVar[bool] = False
    """Whether ``denoise`` uses moments of the whole image, so that large images must not be cut into tiles."""
    denoises: ClassVar[bool] = True
    """False for what only generates noise: its ``denoise`` gives the noisy image, which is not measured."""
    half_precision: ClassVar[bool] = False
    """Whether bf16 was shown to change the final PSNR by less than 0.05 dB (docs/results)."""
    citation: ClassVar[Citation | None] = None
    """The method's paper, for models that are passed on."""
    deviations: ClassVar[tuple[Deviation, ...]] = ()
    recipes: ClassVar[Mapping[str, Recipe]]

    def __init__(self, config: MethodConfig, channels: int):
        super().__init__()
        self.config = config
        self.channels = channels

    def phases(self) -> tuple[Phase, ...]:
        """The phases in order."""
        raise NotImplementedError

    def reconfigure(self, values: Mapping[str, Any]) -> None:
        """Other values of parameters that affect inference only. Raises UserError for unsuitable values."""
        others = set(values) - set(self.Config.inference_names())
        if others:
            raise ValueError(f"{self.name}: {', '.join(sorted(others))} cannot change after the weights were made")
        self.config = self.Config.build({**self.config.model_dump(), **values}, self.name)

    def prepare(self, source: ImageSource) -> ImageSource:
        """Derives the images that are trained on (for example extracted patches). By default the source itself."""
        return source

    def enter(self, phase: str) -> None:
        """Called once when a phase begins (for example: a student starts from its teacher)."""

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Yields one :class:`Update` per optimizer step; goes on with the new weights. Never yield inside no_grad."""
        raise NotImplementedError

    def diagnose(self, source: ImageSource) -> Sequence[Diagnostic]:
        """What the training learned beside its denoiser, against the truth; by default nothing.

        ``source`` is that of the training, after :meth:`prepare`.
        """
        return ()

    def denoise(self, noisy: Tensor) -> Tensor:
        """Denoises (N, C, H, W) in [0, 1], any H and W."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """How many pixels beyond a square of 32 times 32 pixels, at multiples of 32, ``denoise`` sees of an image to
        denoise the square: what tiles have to overlap by."""
        return HALO

    @property
    def learns_at_inference(self) -> bool:
        """Whether ``denoise`` trains weights on the image, so that it is no plain function that could be exported."""
        return False

    @property
    def draws(self) -> int:
        """Versions of each test image whose noise is compared with the real one; 0 where none is generated."""
        return 0

    def generate(self, clean: Tensor, random: torch.Generator) -> Tensor:
        """A noisy version of (N, C, H, W) in [0, 1] with what was learned of the noise; all randomness is ``random``'s,
        which lives on the CPU."""
        raise NotImplementedError

    def twins(self) -> tuple[Denoise, Denoise] | None:
        """Denoisers that were trained alike on real and on generated pairs, whose difference is PGap."""
        return None


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Every method by name, found in ``denoise_core/methods``."""
    package = importlib.import_module("denoise_core.methods")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    found: dict[str, type[Method]] = {}
    pending = list(Method.__subclasses__())
    while pending:
        method = pending.pop()
        pending.extend(method.__subclasses__())
        if "name" in vars(method) and method.__module__.startswith("denoise_core.methods."):
            found[method.name] = method
    return dict(sorted(found.items()))


def method_class(name: str) -> type[Method]:
    """The method of that name. Raises UserError that names the nearest."""
    try:
        return methods()[name]
    except KeyError:
        raise UserError(f"There is no method '{name}': {nearest(name, methods())}.") from None


def create(name: str, config: Mapping[str, Any], channels: int, seed: int) -> Method:
    """A method with fresh weights drawn from ``seed``; the caller's random state is left alone."""
    kind = method_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return kind(kind.Config.build(config, name), channels)


def outline(name: str, config: Mapping[str, Any], channels: int, seed: int = 0) -> Method:
    """A method without memory for its weights, to see whether it can be built and what its phases are."""
    with torch.device("meta"), _Undrawn():
        return create(name, config, channels, seed)


class _Undrawn(TorchFunctionMode):
    """Draws no weights: without memory for them, PyTorch would load a compiler to do so, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":  # which draws without asking again
            return given["tensor"] if "tensor" in given else args[0]
        if args and getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0]
        return func(*args, **given)
