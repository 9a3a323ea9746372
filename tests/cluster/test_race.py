"""A race of methods: who may run, the rounds, the standing, the page and the model; and what criteria were worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import cluster.commands
from cluster.agreement.command import main as agreement
from cluster.agreement.evidence import Measured, evidence
from cluster.console import Console
from cluster.execution.one_training import Ended, Training
from cluster.plan import PlannedTrial
from cluster.race import advice, command
from cluster.race.command import Command, _parser, main
from cluster.race.entrants import Entrant, starters, trained
from cluster.race.rounds import KEPT, PARTS, Lap, Race, needed, tasks
from cluster.race.standing import standing
from cluster.results.store import Store
from denoise_core.images.named import load_images
from denoise_core.metrics.clean_free import criteria, criterion
from denoise_core.model import load
from denoise_core.noise.models import parse_noise
from denoise_core.noise.report import noise_report
from denoise_core.seeding import generator
from denoise_core.trainer import Ranks
from tests.cluster.test_every_study import Silent

NOISY = "bundled_test[0:5]"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray's workers do, in this process."""

    def race(self: Command, store: Store, field: object) -> list[Lap]:
        chosen = None if isinstance(self.choice, str) else self.choice.criterion
        names = (command.UNTRUSTED if chosen is None else chosen.name,)
        self.data = self.data.__class__(
            self.data.spec.model_copy(update={"criteria": names}), self.data.train, None, self.data.test
        )

        def execute(trials: Sequence[PlannedTrial], seconds: float) -> bool:
            for task in tasks(trials, store):
                training = Training(task, command.STUDY, "smoke", store, Ranks(), torch.device("cpu"))
                assert training.run(self.data, Silent()) is Ended.DONE
                training.release()
            return True

        running = [one for one in field.running if one.method in FAST]  # type: ignore[attr-defined]
        return Race(self.data, chosen, "smoke", 0, store, execute).run(running, 60.0, 1, self.console.say)

    monkeypatch.setattr(Command, "_race", race)


FAST = ("noisy", "wavelets", "noise2void")


def run(*arguments: str) -> int:
    return main(["--noisy", NOISY, "--budget", "smoke", "--settings", "1", *arguments])


def test_a_race_from_noise_to_a_model_and_what_its_criterion_was_worth(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    assert run("--noise", "gauss25", "--store", store) == 0
    printed = capsys.readouterr().out
    assert "Chosen by SURE" in printed and "Use " in printed and "by SURE" in printed
    assert "N2C (supervised) does not run: it learns from their clean images" in printed
    pages = list((tmp_path / "store" / "reports").glob("*.html"))
    text = pages[0].read_text()
    for part in ("The standing", "what it removed", "true PSNR", "Who did not run", "To know more", "denoise-studies"):
        assert part in text, part
    assert len(pages) == 1 and "http" not in text.split("</script>")[-1].replace("http-equiv", "")
    model = load(next((tmp_path / "store" / "models").glob("*.safetensors")))
    noisy = (255 * torch.rand(40, 56, generator=generator("a"))).to(torch.uint8).numpy()
    assert model.denoise(noisy).shape == (40, 56)

    trials = len(Store(store).names("trials"))
    assert run("--noise", "gauss25", "--store", store) == 0
    assert len(Store(store).names("trials")) == trials, "the same race trains nothing anew"
    capsys.readouterr()

    assert agreement(["--store", store, "--markdown", str(tmp_path / "table.md")]) == 0
    table = (tmp_path / "table.md").read_text()
    for name in criteria():
        assert (f"| {name} |" in table) == (name not in ("thinning",)), name  # of Gaussian noise there are no counts
    assert "| yes |" in table and "| no |" not in table.split("| sure |")[1].split("\n")[0]
    before = capsys.readouterr().out
    assert "0 trainings were measured" not in before
    assert agreement(["--store", store]) == 0
    assert "0 trainings were measured" in capsys.readouterr().out


def test_an_entrant_that_does_not_suit_the_images_fails_alone(here: None, tmp_path: Path) -> None:
    flags = _parser().parse_args(["--noisy", NOISY, "--noise", "gauss25", "--budget", "smoke"])
    data = Command(flags, [], Console()).data
    race = Race(data, criterion("sure"), "smoke", 0, Store.open(str(tmp_path / "store")), lambda trials, seconds: True)
    entrants = [Entrant("gan2gan", (("patch_lambda", 1e-9),)), Entrant("noise2void")]
    laps = race.run(entrants, 60.0, 1, lambda line: None)
    assert race.trial(entrants[0], 1.0).spec.config["patch_lambda"] == 1e-9
    assert set(laps[0].failed) == set(entrants), "nobody was trained here"
    again = Race(data, criterion("sure"), "smoke", 0, race.store, lambda trials, seconds: True)
    assert [one.part for one in again.run(entrants, 60.0, 1, lambda line: None)] == [one.part for one in laps]


def test_without_a_reliable_criterion_nobody_is_ranked(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--noise", "camera25_5", "--channels", "3", "--store", str(tmp_path / "store")) == 0
    printed = capsys.readouterr().out
    assert "No criterion can be trusted" in printed and "nobody is ranked" in printed
    assert "No method can be recommended" in printed, "the methods of this test take noise as independent"
    assert not (tmp_path / "store" / "models").exists()
    said = advice.unranked([Entrant("iscl"), Entrant("cyclegan")])
    assert "No ranking without clean images is reliable here" in said and "ISCL, CycleGAN were trained" in said
    page = next((tmp_path / "store" / "reports").glob("*.html")).read_text()
    assert (
        "The standing" not in page
        and "what it removed" in page.split("Look at it")[1]
        and "Record each of 3 to 5 scenes" in page
    )


def test_repeated_frames_judge(here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, noise = load_images("bundled_test", channels=1, data_root=None), parse_noise("gauss25")
    for scene, image in enumerate(clean.pixels[:3]):
        for number in range(3):
            frame = noise(0.3 + 0.4 * image[None, :, :96, :96], generator("frame", scene, number))[0, 0].clamp(0, 1)
            (tmp_path / "repeats" / f"scene{scene}").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "repeats" / f"scene{scene}" / f"{number}.npy", frame.numpy())
        single = noise(image[None], generator("single", scene))[0, 0].clamp(0, 1)
        (tmp_path / "noisy").mkdir(exist_ok=True)
        np.save(tmp_path / "noisy" / f"{scene}.npy", single.numpy())
    noisy = ["--noisy", str(tmp_path / "noisy"), "--repeats", str(tmp_path / "repeats")]
    assert main([*noisy, "--budget", "smoke", "--settings", "1", "--store", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr().out
    assert "Chosen by uPSNR" in printed and "by uPSNR" in printed.split("Chosen")[1]
    page = next((tmp_path / "store" / "reports").glob("*.html")).read_text()
    assert "what it removed" in page and "Record each of 3 to 5 scenes" not in page
    assert main([*noisy, "--noise", "gauss25", "--store", str(tmp_path / "store")]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_one_large_image_of_12_bits(here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, draw = load_images("bundled_test", channels=1, data_root=None).pixels[0], np.random.default_rng(0)
    values = (0.1 + 0.8 * clean[0, :200, :240].numpy() + draw.normal(0, 0.05, (200, 240))).clip(0, 1) * 4095
    (tmp_path / "my").mkdir()
    np.save(tmp_path / "my" / "cell.npy", values.round().astype(np.uint16))
    noisy = ["--noisy", f"{tmp_path}/my@white=4095", "--budget", "smoke", "--settings", "1"]
    model = ["--store", str(tmp_path / "store"), "--model", str(tmp_path / "winner.safetensors")]
    assert main([*noisy, *model]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 image: cut into parts of 100 x 100 pixels" in printed
    page = next((tmp_path / "store" / "reports").glob("*.html")).read_text()
    assert "2 images to learn from, 2 others to judge on" in page and "parts of larger images" in page
    used = f"{tmp_path}/winner.safetensors {tmp_path}/my/cell.npy {tmp_path}/denoised.npy --white 4095"
    if "denoise-studies denoise" in printed:  # a winner that is trained
        assert "winner.safetensors IN OUT --white 4095" in printed
        assert cluster.commands.main(["denoise", *used.split()]) == 0
        assert np.load(tmp_path / "denoised.npy").std() > 100


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (["--noisy", "bundled_test[0:2]"], "has 2 image(s), and a race needs 4 or more"),
        (["--noisy", "bundled_test[0:2]"], "with bundled_test@parts=256."),
        (["--noisy", NOISY, "--noise", "gauss25", "--criterion", "upsn"], "There is no criterion 'upsn'"),
        (["--noisy", NOISY, "--minutes", "0"], "must be more than 0"),
        (["--noisy", str(tmp_path / "nothing")], "does not exist"),
    ):
        assert main([*arguments, "--budget", "smoke", "--store", str(tmp_path / "store")]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("error:") == 1


def test_assumptions_that_fail_keep_trained_methods_out() -> None:
    white = [
        torch.full((1, 96, 96), 0.5) + 0.1 * torch.randn(1, 96, 96, generator=generator("white", k)) for k in range(4)
    ]
    blurred = [(image + image.roll(1, 2) + image.roll(1, 1)) / 3 for image in white]
    fields = frozenset({"noisy"})
    kept, lost = (
        starters(noise_report(images), fields, "smoke", settings=3, slow=False, seed=0) for images in (white, blurred)
    )
    names = {one.method for one in kept.running}
    assert {"neighbor2neighbor", "noise2void", "gan2gan", "wavelets", "noisy"} <= names
    assert not names & {"n2c", "iscl", "danet", "deep_image_prior"}
    assert next(one.settings for one in kept.running if one.method == "neighbor2neighbor") == ()
    assert len({one.label for one in kept.running}) == len(kept.running)
    assert "noise2void" not in {one.method for one in lost.running} and "wavelets" in {
        one.method for one in lost.running
    }
    assert "independent from pixel to pixel" in dict(lost.out)["noise2void"]
    assert trained(Entrant("noise2void"), 1, "smoke") and not trained(Entrant("wavelets"), 1, "smoke")


def test_the_standing_says_what_it_cannot_tell() -> None:
    draw = np.random.default_rng(0)
    names = [f"i{number}" for number in range(12)]
    best, close, bad, noisy = (Entrant(name) for name in ("noise2void", "noise2self", "wavelets", "noisy"))
    base = draw.normal(0, 1, 12)
    values = {
        one: dict(zip(names, (mean + base + draw.normal(0, spread, 12)).tolist(), strict=True))
        for one, mean, spread in ((best, 30.02, 0.2), (close, 30.0, 0.2), (bad, 27.0, 0.2), (noisy, 20.0, 0.2))
    }
    gone = Entrant("neighbor2neighbor")
    first = Lap(0.2, {}, {**values, gone: dict.fromkeys(names, 25.0)}, {})
    found = standing(criterion("sure"), [first, Lap(1.0, {}, values, {})], {best: 31.0})
    assert {one.entrant for one in found.tied} == {best, close} - {found.best.entrant}
    assert "cannot be told apart from" in found.verdict() and "over the noisy images" in found.verdict()
    assert found.places[-1].entrant == gone and found.places[-1].lap == 1 and found.places[-1].behind is None
    only = {one: value for one, value in values.items() if one in (bad, noisy)}
    assert "cannot be told apart" not in standing(criterion("sure"), [Lap(1.0, {}, only, {})], {}).verdict()
    worse = {noisy: values[best], bad: values[bad]}
    assert "use none of them" in standing(criterion("sure"), [Lap(1.0, {}, worse, {})], {}).verdict()


@pytest.mark.parametrize(
    ("costs", "lanes", "seconds"),
    [
        ([10.0] * 8, 1, 0.2 * 80 + 0.5 * 40 + 20),
        ([10.0] * 8, 2, 0.2 * 40 + 0.5 * 20 + 10),
        ([10.0] * 8, 64, 0.2 * 10 + 0.5 * 10 + 10),  # no round is shorter than one training
        ([60.0, 10.0, 10.0, 10.0], 2, 0.2 * 60 + 0.5 * 60 + 60),
        ([10.0], 2, 0.2 * 10 + 0.5 * 10 + 10),
    ],
)
def test_the_time_of_all_rounds(costs: list[float], lanes: int, seconds: float) -> None:
    assert needed(costs, PARTS, KEPT, lanes) == pytest.approx(seconds)


def test_tau_and_regret_of_a_right_and_of_a_wrong_criterion() -> None:
    true = np.array([[20.0, 22.0, 21.0], [25.0, 26.0, 27.0], [28.0, 27.0, 29.0], [24.0, 25.0, 23.0]])
    group = Measured("gauss25", "set", ("a", "b", "c", "d"), {"psnr": true, "sure": true + 1, "whiteness": -true})
    right, wrong = evidence([group])
    assert (right.criterion, right.tau.value, right.regret.value, right.bias) == ("sure", 1.0, 0.0, 1.0)
    assert right.tau.low == 1.0 and right.regret.high == 0.0
    assert wrong.tau.value == -1.0 and wrong.regret.value == pytest.approx(7.0)
    assert evidence([Measured("n", "s", ("a", "b"), {"psnr": true[:2], "sure": true[:2]})]) == []


def test_flags_have_help() -> None:
    assert "--criterion" in _parser().format_help()
