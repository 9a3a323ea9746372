"""The command line of a race: ``python studies/which_method.py --noisy FOLDER``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cluster.cli import STOPPED
from cluster.console import Console
from cluster.ending import INTERRUPTED, ended
from cluster.execution.placement import Resources
from cluster.execution.session import prepare_environment, session
from cluster.models import SUFFIX, model_of_trial
from cluster.plan import PlannedTrial
from cluster.race import advice
from cluster.race.entrants import Entrant, Starters, starters, trained
from cluster.race.page import Outcome, write_page
from cluster.race.rounds import Lap, Race, measured, tasks
from cluster.race.standing import standing
from cluster.results.files import explained
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.images.frames import FRAMES, PREFIX
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import absolute, load_images, parted, view_of
from denoise_core.images.view import side_for
from denoise_core.method import method_class
from denoise_core.metrics.clean_free import AUTO, Choice
from denoise_core.noise.models import RECORDED
from denoise_core.scenes import Scenes, chosen, scenes
from denoise_core.specification import DataSpec, LoadedData, load_data

STUDY = "which_method"
QUESTION = "Which method for these images?"
LEAST_IMAGES = 4
"""Fewer cannot be parted into images to learn from and images to judge on."""
CUT_INTO = (16, 12, 8, LEAST_IMAGES)
"""So many parts or more, or else fewer, are made of fewer images."""
SIDES = (96, 512)
"""Side of a part in pixels, at least and at most."""
LEAST_JUDGED = 2
UNTRUSTED = "whiteness"
"""Measured where no criterion can be trusted; nobody is ranked by it."""
FAILURES = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a race. Exit status: 0, 1 where nobody could be trained, 2 bad input, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    return ended(lambda: Command(_parser().parse_args(given), given, console).run(), console, STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Which method, with which setting, for these noisy images? Clean ones are not needed.",
        epilog="The same command goes on where an interrupted one ended, and trains nothing that the store holds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--noisy", required=True, metavar="SET", help="noisy images: a folder or a named set (of pairs: the noisy ones)"
    )
    add("--clean", metavar="SET", help="clean images of other scenes, for methods that learn from unpaired images")
    add("--repeats", metavar="FOLDER", help=f"to judge on: {FRAMES}, with nothing moving")
    add("--noise", metavar="NAME", help="add this noise to --noisy, which is then clean: to try a race out")
    add("--minutes", type=float, default=12.0, metavar="N", help="time to spend, about")
    add("--settings", type=int, default=2, metavar="N", help="settings of each method: its default and others")
    add("--criterion", default=AUTO, metavar="NAME", help="how to judge without clean images")
    add("--budget", choices=("smoke", "laptop", "gpu"), help="networks (default: gpu where there is one, else laptop)")
    add("--slow", action="store_true", help="also methods that learn anew for every image")
    add("--seed", type=int, default=0, metavar="N", help="of the trainings and of the settings that are tried")
    add("--channels", type=int, choices=(1, 3), help="gray or colour (default: as the images are)")
    add("--gpus-per-trial", type=float, metavar="X", help="GPUs of a training; 0.5 shares one")
    add("--address", metavar="HOST:PORT", help="a running Ray cluster (default: $RAY_ADDRESS, else this machine)")
    add("--store", default="results", metavar="PATH", help="results store: a folder or s3://..., gs://...")
    add("--data-root", metavar="PATH", help="folder of named image sets (default: $DENOISE_DATA)")
    add("--model", metavar="FILE", help=f"where the winner is written (default: <store>/models/{STUDY}-....{SUFFIX})")
    add("--dry-run", action="store_true", help="measure the noise, say who would run, train nothing")
    return parser


@dataclass
class Command:
    """One race from the command line to its page. Raises UserError for bad input before anything is trained."""

    flags: argparse.Namespace
    arguments: Sequence[str]
    console: Console
    interrupted: bool = False

    def run(self) -> int:
        """Everything, in order; returns the exit status."""
        began = time.monotonic()
        flags, say = self.flags, self.console.say
        if flags.minutes <= 0 or flags.settings < 1:
            raise UserError("--minutes and --settings must be more than 0: give 12 and 2, for instance.")
        store = Store.open(flags.store)
        say(QUESTION, style="bold")
        report = self._seen.known.report
        for sentence in report.sentences():
            say(sentence)
        for line in self._judged:
            say(line)
        field = self._starters
        for name, reason in field.out:
            say(f"  {method_class(name).title} does not run: {reason}.", style="dim")
        say(f"{len(field.running)} entrants: {', '.join(one.label for one in field.running)}.")
        if flags.dry_run:
            return 0
        laps = self._race(store, field)
        if not laps or not laps[-1].values:
            self.console.complain("nobody could be trained and measured; see the logs of the store.")
            return FAILURES if laps else INTERRUPTED
        path = self._finish(store, laps, field, time.monotonic() - began)
        say("")
        say(f"Report: {path}", style="bold")
        if self.interrupted:
            say("Interrupted: the same command goes on where this one ended.", style="yellow")
        return INTERRUPTED if self.interrupted else 0

    # ---- input ----

    @cached_property
    def data(self) -> LoadedData:
        """Images to learn from and images to judge on, with the criterion that these license."""
        flags, root = self.flags, self._root
        noisy = absolute(flags.noisy)
        images = load_images(noisy, channels=flags.channels, data_root=root)
        if flags.repeats and flags.noise:
            raise UserError("--repeats are recorded frames, --noise is simulated noise: give one of them.")
        if len(images) < LEAST_IMAGES and not flags.repeats:
            noisy = self._cut(noisy, images)
            images = load_images(noisy, channels=flags.channels, data_root=root)
        whole, numbers = _numbered(noisy, images, flags.channels, root)
        held = max(2, round(len(images) / 3))
        places = [(2 * number + 1) * len(images) // (2 * held) for number in range(held)]
        rest = [number for number in range(len(images)) if number not in places]
        learned, judged = (_some(whole, [numbers[place] for place in some]) for some in (rest, places))
        if flags.repeats:  # they are to be judged on, so there is more to learn from
            learned, judged = noisy, absolute(PREFIX + flags.repeats)
        given = {
            "train": learned, "test": (judged,), "clean": absolute(flags.clean) if flags.clean else "",
            "noise": flags.noise or RECORDED, "noise_realisation": "frozen", "channels": images.channels,
            "criteria": (flags.criterion,),
        }  # fmt: skip
        spec = DataSpec.model_validate(given)
        loaded = load_data(spec, root)
        if len(loaded.test[0]) < LEAST_JUDGED:
            raise UserError(
                f"{flags.repeats} holds one scene, and one says nothing about others: give the frames of "
                f"{LEAST_JUDGED} or more."
            )
        return loaded

    def _cut(self, noisy: str, images: ImageSet) -> str:
        """The name of parts of the images, where there are too few. Raises UserError where they are too small."""
        name, view = parted(noisy, self._root)
        side = next((one for count in CUT_INTO if (one := side_for(images.shapes, count)) and one >= SIDES[0]), None)
        if side is None or noisy.endswith("]") or view.parts is not None:
            raise UserError(
                f"{self.flags.noisy} has {len(images)} image(s), and a race needs {LEAST_IMAGES} or more, since some "
                "are kept to judge on: give more images, or cut large ones into squares, as 256 pixels wide with "
                f"{name.partition('[')[0]}@parts=256. denoise-studies noise measures even one image."
            )
        side = min(side, SIDES[1])
        self.console.say(
            f"{len(images)} image{'s' * (len(images) != 1)}: cut into parts of {side} x {side} pixels, to learn from "
            "some and to judge on others."
        )
        return f"{name}{replace(view, parts=side)}"

    @property
    def _seen(self) -> Scenes:
        """The images to judge on."""
        return scenes(self.data.test[0], self.data.spec.noise)

    @cached_property
    def choice(self) -> Choice | str:
        """The criterion, or why none can be trusted. Raises UserError for one that was asked for and is refused."""
        try:
            return chosen(self.flags.criterion, self._seen)
        except UserError as error:
            if self.flags.criterion != AUTO:
                raise
            return str(error)

    @property
    def _judged(self) -> list[str]:
        if isinstance(self.choice, str):
            return [self.choice, "So nobody is ranked: every method whose assumptions hold is trained, to look at."]
        return [str(self.choice)]

    @cached_property
    def _starters(self) -> Starters:
        fields = frozenset(self.data.source(self.flags.seed, torch.device("cpu")).fields) - {"clean", "noisy2"}
        report = self._seen.known.report
        return starters(
            report, fields - {"noise", "noise2"}, self._budget, settings=self.flags.settings, slow=self.flags.slow,
            seed=self.flags.seed,
        )  # fmt: skip

    @property
    def _root(self) -> Path | None:
        text = self.flags.data_root or os.environ.get("DENOISE_DATA")
        return Path(text).expanduser().absolute() if text else None

    @property
    def _budget(self) -> str:
        return str(self.flags.budget or ("gpu" if torch.cuda.is_available() else "laptop"))

    # ---- the race ----

    def _race(self, store: Store, field: Starters) -> list[Lap]:
        """All rounds on Ray."""
        prepare_environment(self.flags.address)
        from cluster.execution.hosted import Work
        from cluster.execution.placement import Cluster, lanes
        from cluster.execution.run import execute  # here: Ray is slow to import and not always needed

        gpus = self.flags.gpus_per_trial
        gpus = (1.0 if self._budget == "gpu" else 0.0) if gpus is None else gpus
        resources = Resources(1, 1.0, gpus)
        criterion = None if isinstance(self.choice, str) else self.choice.criterion
        # whoever is not ranked is looked at: what is measured by a criterion also gets a picture of what it removed
        fields = {"criteria": (criterion.name if criterion is not None else UNTRUSTED,)}
        data = replace(self.data, spec=self.data.spec.model_copy(update=fields))
        with session(self.flags.address) as current:
            if current.dashboard:
                self.console.say(f"Ray dashboard: {current.dashboard}", style="dim")
            count, _ = lanes(resources, None, Cluster.now(), not current.local)

            def train(trials: Sequence[PlannedTrial], seconds: float) -> bool:
                left: Any = tasks(trials, store)
                if not left:
                    return True
                work = Work(STUDY, self._budget, left)
                return execute(
                    work, store, self._root, resources, None, seconds, self.console, may_grow=not current.local
                )

            race = Race(data, criterion, self._budget, self.flags.seed, store, train)
            laps = race.run(field.running, 60 * self.flags.minutes, count, self.console.say)
            self.interrupted = race.interrupted
            return laps

    # ---- what came of it ----

    def _finish(self, store: Store, laps: Sequence[Lap], field: Starters, seconds: float) -> Path:
        last = laps[-1]
        truth = {one: value for lap in laps for one, value in _truth(store, lap).items()}
        found = None if isinstance(self.choice, str) else standing(self.choice.criterion, laps, truth)
        if found is None:
            handed_out = [one for one in last.values if trained(one, self.data.spec.channels, self._budget)]
        else:
            handed_out = [found.best.entrant] if found.useful else []
        use = [self._export(store, last.trials[one], len(handed_out) > 1) for one in handed_out]
        verdict = found.verdict() if found is not None else advice.unranked(handed_out)
        self.console.say("")
        self.console.say(verdict, style="bold")
        for line in use:
            self.console.say(f"  {line}")
        order = [one.entrant for one in found.places] if found is not None else list(last.values)
        report = self._seen.known.report
        outcome = Outcome(
            title=f"{STUDY}, {self.flags.noisy}" + (f" with {self.flags.noise}" if self.flags.noise else ""),
            question=QUESTION,
            verdict=verdict,
            judged=[*self._judged, self._images()],
            report=report,
            standing=found,
            pictures={one.label: _pictures(store, last.trials[one]) for one in order if one in last.trials},
            out=field.out,
            failed=[(one.label, reason) for one, reason in last.failed.items()],
            advice=advice.advice(found, laps, report, self._seen.known.frames),
            use=use,
            costs=advice.costs(laps, seconds, self._budget),
            command=f"python studies/{STUDY}.py {shlex.join(self.arguments)}",
        )
        folder = (store.local or Path("results")) / "reports"
        return write_page(outcome, folder / f"{STUDY}-{_name(self.data)}.html")

    def _images(self) -> str:
        data = self.data
        counts = f"{len(data.train)} images to learn from, {len(data.test[0])} others to judge on"
        found = f"{counts}; the methods never saw these."
        if view_of(data.spec.train, self._root).parts is None:
            return found
        return f"{found} They are parts of larger images: what is found holds for these, not for others."

    def _export(self, store: Store, trial: PlannedTrial, several: bool) -> str:
        """Writes a model file, where there are ``several`` with the training's id in its name; returns what to type."""
        folder = (store.local or Path("results")) / "models"
        path = Path(self.flags.model) if self.flags.model else folder / f"{STUDY}-{_name(self.data)}{SUFFIX}"
        if several:
            path = path.with_name(f"{path.stem}-{trial.spec.method}-{trial.spec.trial_id[:6]}{SUFFIX}")
        path.parent.mkdir(parents=True, exist_ok=True)
        model = model_of_trial(store, trial.spec.trial_id, self._root)
        with explained(path, model.bytes):
            model.save(path)
        white = view_of(self.flags.noisy, self._root).white
        return f"denoise-studies denoise {shlex.quote(str(path))} IN OUT" + (f" --white {white:g}" if white else "")


def _truth(store: Store, lap: Lap) -> dict[Entrant, float]:
    """Mean true PSNR, where clean images are known."""
    found = {}
    for one in lap.values:
        values = measured(store, lap.trials[one], "psnr")
        if values:
            found[one] = sum(values.values()) / len(values)
    return found


def _pictures(store: Store, trial: PlannedTrial) -> Mapping[str, bytes]:
    """The crops of the first image that has some."""
    rows = store.read("previews", [trial.spec.evaluation_id]).to_pylist()
    first = rows[0]["image_id"] if rows else ""
    return {row["kind"]: row["png"] for row in rows if row["image_id"] == first}


def _numbered(name: str, images: ImageSet, channels: int | None, root: Path | None) -> tuple[str, list[int]]:
    """The set that ``name`` selects from, and the places of ``images`` in it."""
    whole = name.rpartition("[")[0] if name.endswith("]") and not Path(name).is_dir() else name
    ids = load_images(whole, channels=channels, data_root=root).ids if whole != name else images.ids
    return whole, [ids.index(one) for one in images.ids]


def _some(name: str, places: Sequence[int]) -> str:
    """The images of a set at these places."""
    return f"{name}[{','.join(map(str, places))}]"


def _name(data: LoadedData) -> str:
    """Of a race on these images: others do not overwrite its page and model."""
    return "".join(fingerprint[:6] for _, fingerprint in data.contents[:1]) + f"-{data.spec.noise}"
