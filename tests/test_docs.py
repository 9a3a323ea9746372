"""The documentation: its snippets run and print what it says, its flags exist, its tables are those of the code.

A fence is run unless a comment before it says otherwise. ``<!-- check -->``: it would take long or needs a cluster, so
only its flags are looked at. ``<!-- exit 2 -->``: it ends with this status. ``<!-- file PATH -->``: it is written there
for what follows. ``<!-- from PATH -->``: its lines are some of that file, in their order. A fence of ``text`` after one
that was run holds lines of what that printed. A line of ``...`` stands for others.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cluster.cli
import cluster.commands
from cluster import reference
from denoise_core.images.bundled import load_bundled

ROOT = Path(__file__).resolve().parents[1]
CHECKED_ONLY = [ROOT / "README.md", ROOT / "docs" / "cluster.md"]
RUN = sorted(set((ROOT / "docs").glob("*.md")) - {*CHECKED_ONLY, ROOT / "docs" / "reference.md"})
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SCRIPT = re.compile(r"studies/\w+\.py")
BETWEEN = {"&&", "||", "|", ";", "&"}
SIDE, SCENES, FRAMES, SIGMA = 128, 6, 3, 20 / 255
ONE = 400


@dataclass(frozen=True)
class Snippet:
    mark: str
    language: str
    text: str

    @property
    def status(self) -> int:
        return int(self.mark.removeprefix("exit ")) if self.mark.startswith("exit ") else 0

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments."""
        lexer = shlex.shlex(self.text.replace("\\\n", " ").replace("\n", "\n; "), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word not in BETWEEN:
                words.append(word)
            elif words:
                yield words
                words = []
        if words:
            yield words


def snippets(page: Path) -> list[Snippet]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Snippet(one["mark"] or "", one["language"], one["text"]) for one in found]


def parser_of(script: Path) -> argparse.ArgumentParser:
    """That of a study, or of a command that lies among them."""
    names = runpy.run_path(str(script), run_name="documentation")
    if "study" in names:
        return cluster.cli._parser(names["study"])
    found: argparse.ArgumentParser = sys.modules[names["main"].__module__]._parser()
    return found


def check_flags(words: list[str]) -> int:
    """Reads the words with the parsers that they are for; how many there were. A script that a page writes is none."""
    checked = 0
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        if word == "denoise-studies" and all("=" in before for before in words[:place]):
            cluster.commands._parser(rest).parse_args(rest)
            checked += 1
        elif SCRIPT.fullmatch(word):
            script = Path(word) if Path(word).is_file() else ROOT / "studies" / Path(word).name
            parser_of(script).parse_args(rest)
            checked += 1
    return checked


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages have it: noisy images, repeated frames, pairs, a stack, 12 bits, one large image."""
    monkeypatch.chdir(tmp_path)
    for name in ("DENOISE_DATA", "DENOISE_DATA_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    draw = np.random.default_rng(0)
    for folder in ("my/images", "my/test_images", "my/pairs/noisy", "my/pairs/gt", "my/camera"):
        Path(folder).mkdir(parents=True)
    bundled = [*load_bundled("bundled_train", 1).pixels, *load_bundled("bundled_test", 1).pixels]
    for number, image in enumerate(bundled[: 2 * SCENES]):
        clean = image[0, :SIDE, :SIDE].numpy()
        noisy = [to_16_bit(clean + SIGMA * draw.standard_normal(clean.shape)) for _ in range(FRAMES)]
        if number >= SCENES:
            tifffile.imwrite(f"my/test_images/{number}.tif", noisy[0])
            continue
        Path(f"my/repeats/scene{number}").mkdir(parents=True)
        for frame, one in enumerate(noisy):
            tifffile.imwrite(f"my/repeats/scene{number}/{frame}.tif", one)
        for name in (f"my/images/{number}.tif", f"my/pairs/noisy/{number}.tif"):
            tifffile.imwrite(name, noisy[0])
        tifffile.imwrite(f"my/pairs/gt/{number}.tif", to_16_bit(clean))
        tifffile.imwrite(f"my/camera/{number}.tif", noisy[0] // 16)
    large = np.tile(bundled[0][0].numpy(), (2, 2))[:ONE, :ONE]
    Path("my/one").mkdir()
    tifffile.imwrite("my/one/large.tif", to_16_bit(large + SIGMA * draw.standard_normal(large.shape)))
    tifffile.imwrite("my/stack.tif", np.stack([tifffile.imread(f"my/images/{one}.tif") for one in range(3)]))
    return tmp_path


def to_16_bit(image: Any) -> Any:
    return np.rint(np.clip(0.25 + image / 2, 0, 1) * 65535).astype(np.uint16)


def run_words(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a command in this process, as its program would; its exit status."""
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    try:
        if words[0] == "denoise-studies":
            return cluster.commands.main(words[1:])
        assert words[0] == "python" and SCRIPT.fullmatch(words[1]), f"{words} cannot be run: mark its fence with check"
        monkeypatch.setattr(sys, "argv", words[1:])
        script = Path(words[1]) if Path(words[1]).is_file() else ROOT / words[1]
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def assert_printed(expected: str, printed: str) -> None:
    plain = " ".join(printed.split())
    for line in expected.splitlines():
        if line.strip() not in ("", "..."):
            assert " ".join(line.split()) in plain, f"it did not print {line!r}, but:\n{printed}"


def assert_excerpt(expected: str, whole: str) -> None:
    lines = iter(line.strip() for line in whole.splitlines())
    for line in filter(None, map(str.strip, expected.splitlines())):
        # "in" takes lines from the iterator, so each is looked for after the one before
        assert line.startswith("...") or line in lines, f"the file has no line {line!r} after those before it"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_snippets_run_and_print_what_the_page_says(
    page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared: dict[str, Any] = {"__name__": "snippet"}
    printed = ""
    for one in snippets(page):
        kind, _, place = one.mark.partition(" ")
        if kind == "check":
            for words in one.commands:
                check_flags(words)
            printed = ""
        elif kind == "from":
            assert_excerpt(one.text, (ROOT / place).read_text(encoding="utf-8"))
        elif kind == "file":
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_text(one.text, encoding="utf-8")
        elif one.language == "text":
            assert printed, f"nothing was run before {one.text}"
            assert_printed(one.text, printed)
        elif one.language == "python":
            exec(compile(one.text, f"{page.name}", "exec"), shared)
            printed = "".join(capsys.readouterr())
        elif one.language == "bash":
            statuses = [run_words(words, monkeypatch) for words in one.commands]
            printed = "".join(capsys.readouterr())
            assert max(statuses) == one.status, f"{one.text}\n{printed}"
    shutil.rmtree(workspace, ignore_errors=True)


@pytest.mark.parametrize("page", CHECKED_ONLY, ids=lambda page: page.stem)
def test_flags_of_commands_that_only_a_reader_runs_exist(page: Path) -> None:
    found = [check_flags(words) for one in snippets(page) if one.language == "bash" for words in one.commands]
    assert sum(found) > 5


def test_a_wrong_flag_and_other_words_than_were_printed_would_be_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_flags(shlex.split("python studies/iscl_gamma.py --budgets laptop"))
    with pytest.raises(SystemExit):
        check_flags(shlex.split("denoise-studies noise my/images --repeat-frames"))
    assert "unrecognized arguments" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="did not print"):
        assert_printed("two\n...\nfour", "one two\nthree")
    with pytest.raises(AssertionError, match="no line"):
        assert_excerpt("b\na", "a\nb")


def test_tables_are_those_of_the_code() -> None:
    for path, text in reference.documents().items():
        assert path.is_file() and path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(ROOT)} is stale: run {reference.COMMAND}"
        )


def test_tables_name_every_study_method_and_set() -> None:
    parts = [re.findall(r"^\| `(\w+)` \|", one, re.MULTILINE) for one in reference.reference().split("\n## ")[1:]]
    scripts = {path.stem for path in (ROOT / "studies").glob("*.py")} - {"__init__"}
    commands = {"which_method", "criterion_agreement"} & scripts
    assert parts == [sorted(scripts - commands), list(reference.methods()), list(reference.PUBLIC)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(scripts) if f"studies/{name}.py" not in readme] == []


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build(config)  # raises Abort at a warning
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert all((tmp_path / "site" / name / "index.html").is_file() for name in pages)
    loaded = re.findall(r'(?:src|href)="(https?:)?//[^"]+\.(?:js|css)', (tmp_path / "site" / "index.html").read_text())
    assert loaded == [], "the pages load something from the network"
