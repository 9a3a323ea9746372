"""Which numerics a measurement takes, what it says, and that the same command goes on with them."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import speed
from cluster.cli import parse, run
from cluster.execution import probe
from cluster.numerics import COMPILED_FROM_S
from cluster.results.store import Store
from cluster.runner import Runner
from cluster.settings import recipe_of
from cluster.speed import Timed, timed
from denoise_core.errors import UserError
from denoise_core.method import method_class, methods
from denoise_core.specification import DataSpec, LoadedData, TrialSpec, specify
from tests.cluster.test_every_study import execute_here, study
from tests.core.test_trainer import NAMES, image_set

METHOD = "neighbor2neighbor"
SHORT = ("--budget", "smoke", "--seeds", "1", "--set", "gamma=0", "--references", "none")
LOSSES = {"train loss": 1.0}


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DENOISE_DATA", raising=False)
    monkeypatch.setattr(method_class(METHOD), "half_precision", True)
    monkeypatch.setattr(Runner, "_train", execute_here)


def answer(store: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run(study(f"{METHOD}_gamma"), [*SHORT, "--store", str(store), *flags]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("Numerics") and "timing" not in line]
    return lines[0] if lines else ""


def measuring(
    monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float | None], losses: Mapping[str, float] | None = None
) -> list[str]:
    """Makes trainings take so long, by precision, layout and compiling; what was asked for."""
    asked = []

    def here(data: Any, specs: Sequence[TrialSpec]) -> tuple[list[Timed | None], str]:
        found: list[Timed | None] = []
        for spec in specs:
            recipe = spec.recipe
            name = f"{recipe.precision} {'last' if recipe.channels_last else 'first'}{' compiled' * recipe.compile}"
            asked.append(name)
            spent = seconds[name]
            first = 90.0 if recipe.compile else 0.0
            loss = {"train loss": (losses or {}).get(name, 1.0)}
            found.append(None if spent is None else Timed(spent, first, loss))
        return found, "a processor"

    monkeypatch.setattr(probe, "here", here)
    return asked


FAST = {"fp32 last": 10.0, "fp32 first": 9.5, "bf16 last": 5.0, "bf16 first": 6.0}


def test_the_fastest_is_taken_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measuring(monkeypatch, FAST)
    said = answer(tmp_path / "s", capsys, "--fast", "--dry-run")
    assert said == (
        "Numerics: bf16, channels_last; on a processor, times as fast as fp32, channels_last: fp32, contiguous 1.05; "
        "bf16, channels_last 2.00; bf16, contiguous 1.67; a training takes 5 s, too short for compiling to pay."
    )
    assert sorted(asked) == sorted(FAST)
    measuring(monkeypatch, {**FAST, "bf16 last": 50.0})  # another answer would come now, but nobody asks
    assert "bf16, channels_last, as measured before" in answer(tmp_path / "s", capsys, "--fast")
    assert "bf16, channels_last, as in what is stored" in answer(tmp_path / "s", capsys, "--fast")
    store = Store.open(str(tmp_path / "s"))
    (row,) = store.trials(store.names("trials")).values()
    recipe = json.loads(row["recipe_json"])
    assert recipe["precision"] == "bf16" and recipe["channels_last"] is True and recipe["compile"] is False
    (kept,) = store.read("numerics", store.names("numerics")).to_pylist()
    assert kept["device"] == "a processor" and "bf16, channels_last 2.00" in kept["why"]
    assert answer(tmp_path / "s", capsys, "--dry-run") == ""  # who does not ask is told nothing


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({}, "bf16, channels_last"),
        ({"bf16 last": 9.5, "bf16 first": 9.2}, "fp32, channels_last"),  # 1.09 is not enough
        ({"fp32 first": 2.0}, "fp32, contiguous"),
        ({"bf16 last": None, "bf16 first": None}, "fp32, channels_last"),
        ({"bf16 last": None}, "bf16, contiguous"),
        ({"fp32 last": None}, "fp32, channels_last"),  # nothing to compare with
    ],
)
def test_what_is_taken(
    seconds: Mapping[str, float | None], chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    measuring(monkeypatch, {**FAST, **seconds})
    said = answer(tmp_path / "s", capsys, "--precision", "auto", "--layout", "auto", "--dry-run")
    assert said.startswith(f"Numerics: {chosen};")


def test_what_computes_something_else_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring(monkeypatch, FAST, {"bf16 last": 1.5, "bf16 first": 1.05})
    said = answer(tmp_path / "s", capsys, "--precision", "auto", "--layout", "auto", "--dry-run")
    assert said.startswith("Numerics: bf16, contiguous;") and "bf16, channels_last" not in said


LONG = {"fp32 last": COMPILED_FROM_S, "fp32 last compiled": COMPILED_FROM_S / 2}


@pytest.mark.parametrize(
    ("seconds", "compiled", "told"),
    [
        ({}, True, "compiled, a training is 1.54 times as fast (1 min 30 s of compiling counted)."),
        ({"fp32 last compiled": COMPILED_FROM_S - 100}, False, "1.02 times as fast"),
        ({"fp32 last compiled": None}, False, "compiled networks do not run, or not alike, on a processor."),
        ({"fp32 last": COMPILED_FROM_S - 1}, False, "too short for compiling to pay"),
    ],
)
def test_networks_are_compiled_where_long_trainings_gain(
    seconds: Mapping[str, float | None], compiled: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = measuring(monkeypatch, {**LONG, **seconds})
    said = answer(tmp_path / "s", capsys, "--compile", "auto", "--dry-run")
    assert said.startswith("Numerics: fp32, channels_last" + ", compiled;" * compiled) and told in said
    assert ("fp32 last compiled" in asked) == ("too short" not in told)


def test_half_precision_is_not_taken_where_nobody_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measuring(monkeypatch, FAST)
    monkeypatch.setattr(method_class(METHOD), "half_precision", False)
    said = answer(tmp_path / "s", capsys, "--precision", "auto", "--dry-run")
    assert said.startswith("Numerics: fp32, channels_last. bf16 was not tried: nobody has shown") and not asked


@pytest.mark.parametrize("first", ["fp32", "bf16"])
def test_what_is_stored_decides_first(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measuring(monkeypatch, FAST)
    answer(tmp_path / "s", capsys, "--precision", first)
    assert f"{first}, channels_last, as in what is stored" in answer(tmp_path / "s", capsys, "--precision", "auto")
    store = Store.open(str(tmp_path / "s"))
    assert len(store.names("trials")) == 1 and not asked  # nothing was trained again


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {}),
        (("--layout", "contiguous"), {"channels_last": False}),
        (("--layout", "channels_last", "--compile"), {"channels_last": True, "compile": True}),
        (("--fast",), {"precision": "auto", "channels_last": "auto", "compile": "auto"}),
        (("--fast", "--precision", "fp32", "--compile"),
         {"precision": "fp32", "channels_last": "auto", "compile": True}),
    ],
)  # fmt: skip
def test_flags(flags: Sequence[str], expected: Mapping[str, Any]) -> None:
    one = study(f"{METHOD}_gamma")
    options = parse(one, [*SHORT, *flags])
    assert options.numerics == expected
    recipe, own = recipe_of(one, options), method_class(METHOD).recipes["smoke"]
    assert recipe == replace(own, **{name: value for name, value in expected.items() if value != "auto"})


# ---- the measurement itself ----


def asked(name: str, **changes: Any) -> tuple[TrialSpec, LoadedData]:
    """Few steps of a method, and images that have all it may need."""
    recipe = replace(methods()[name].recipes["smoke"], steps=5, **changes)
    realisation = "frozen" if methods()[name].assumes.given else "fresh"
    spec = DataSpec.model_validate({"noise": "gauss25", "noise_realisation": realisation, "validation": 0})
    data = LoadedData(spec, image_set(), None, (image_set(3),), image_set(2))
    return specify(name, {}, spec, data.contents, recipe, 0), data


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_every_method_are_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUND_S", 0.0)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    one, data = asked(name)
    other = replace(one, recipe=replace(one.recipe, channels_last=not one.recipe.channels_last))
    found = timed([one, other], data, torch.device("cpu"))
    assert all(time is not None and time.seconds > 0 and math.isfinite(time.seconds) for time in found)
    assert found[0] is not None and found[1] is not None and found[0].agrees(found[1])


def test_what_takes_longer_is_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    one, data = asked(METHOD)
    half = replace(one, recipe=replace(one.recipe, precision="bf16"))
    step = speed.Trainer._train_step

    def slow(self: speed.Trainer, stretch: Any) -> None:
        began = time.thread_time()
        while self.recipe.precision == "bf16" and time.thread_time() - began < 0.05:
            pass
        step(self, stretch)

    monkeypatch.setattr(speed.Trainer, "_train_step", slow)
    monkeypatch.setattr(speed, "ROUND_S", 0.0)
    own, other = timed([one, half], data, torch.device("cpu"))
    assert own is not None and other is not None
    assert 0.05 * 5 < other.seconds < own.seconds + 0.05 * 5 * 3


def test_what_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one, data = asked(METHOD)
    half = replace(one, recipe=replace(one.recipe, precision="bf16"))
    started = speed.Trainer.autocast

    def autocast(self: speed.Trainer) -> Any:
        if self.recipe.precision == "bf16":
            raise RuntimeError("no such kernel")
        return started(self)

    monkeypatch.setattr(speed.Trainer, "autocast", autocast)
    own, other = timed([one, half], data, torch.device("cpu"))
    assert own is not None and other is None


def test_what_can_be_trained_nowhere_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "batch_size=3", "--set", "patch_size=2048", "--layout", "auto", "--store", str(tmp_path / "s"))
    assert run(study(f"{METHOD}_gamma"), [*SHORT, *flags]) == 2
    printed = capsys.readouterr()
    assert "error: " in printed.err + printed.out and "could not be tried" not in printed.out


def test_losses_that_differ_by_more_than_rounding_do_not_agree() -> None:
    one = Timed(1.0, 0.0, {"a": 1.0, "b": 1e-4})
    assert one.agrees(Timed(1.0, 0.0, {"a": 1.05, "b": 8e-4}))
    for losses in ({"a": 1.2, "b": 1e-4}, {"a": 1.0, "b": 3e-3}, {"a": 1.0}, {"a": float("nan"), "b": 1e-4}):
        assert not one.agrees(Timed(1.0, 0.0, losses))


@pytest.mark.parametrize("gpus", [0, 1])
def test_gpus_of_the_cluster_are_asked(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[dict[str, Any]] = []
    told: list[str | None] = []

    class Remote:
        def __init__(self, function: Any):
            self.remote = function

    def remote(**resources: Any) -> Any:
        wanted.append(resources)
        return Remote

    ray = types.SimpleNamespace(
        cluster_resources=lambda: {"CPU": 2.0, "GPU": float(gpus)}, remote=remote, get=lambda value: value
    )

    @contextlib.contextmanager
    def session(address: str | None) -> Iterator[None]:
        told.append(address)
        yield

    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(probe, "session", session)
    monkeypatch.setattr(probe, "prepare_environment", lambda address: None)
    monkeypatch.setattr(probe, "timed_there", lambda specs, root: ([Timed(1.0, 0.0, LOSSES)] * len(specs), "a GPU"))
    specs = [asked(METHOD)[0]]
    if not gpus:
        with pytest.raises(UserError, match="the cluster has none: name them"):
            probe.on_gpu("head:6379", None, specs)
        return
    assert probe.on_gpu("head:6379", None, specs) == ([Timed(1.0, 0.0, LOSSES)], "a GPU")
    assert wanted == [{"num_cpus": 1, "num_gpus": 1, "max_retries": 1}] and told == ["head:6379"]
