"""Tables of the documentation that come from the code: studies, methods, image sets, criteria.

::

    python -m cluster.reference

writes docs/reference.md, and the table of docs/criteria.md between its two marks. A test fails while they are stale.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.report.noise_page import FIELDS
from cluster.report.papers import PaperTable
from cluster.study import Axis, Study
from denoise_core.images.registry import PUBLIC
from denoise_core.method import Method, methods, outline
from denoise_core.metrics.clean_free import Criterion, criteria

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m cluster.reference"
BEGIN, END = "<!-- generated: criteria -->", "<!-- end of generated -->"
OUTLINED = "smoke"
"""The budget whose phases are listed; their names are those of every budget."""
CITED = re.compile(r"\(([^()]*\b(?:19|20)\d\d)[^()]*\)")
"""The first brackets with a year, where a file names its paper in its first sentence."""
TABLE = re.compile(r"table_?(s?)(\d+)")
"""The name of a table: table3, or table_s3 in the supplement."""
HEAD = f"""# Reference

Written by `{COMMAND}` from the code. Do not edit it by hand.
"""


def documents() -> dict[Path, str]:
    """Every generated file by its path, with the text that it should have."""
    page = ROOT / "docs" / "criteria.md"
    return {ROOT / "docs" / "reference.md": reference(), page: with_criteria(page.read_text(encoding="utf-8"))}


def main() -> int:
    """Writes what is stale; the exit status is 0."""
    for path, text in documents().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return 0


def reference() -> str:
    """The page of all studies, methods and image sets, in Markdown."""
    return "\n".join([HEAD, *_studies(), "", *_methods(), "", *_sets(), ""])


def with_criteria(page: str) -> str:
    """The page with a fresh table between its marks. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/criteria.md lacks the lines {BEGIN} and {END}, between which its table is written")
    rows = [(f"`{one.name}`", one.title, one.source, one.assumption, str(one.least), _taken(one))
            for one in criteria().values()]  # fmt: skip
    head = ("`--criterion`", "title", "source", "what it assumes", "frames of each scene", "`auto`")
    return "\n".join([f"{before}{BEGIN}", "", *table(head, rows), "", f"{END}{after}"])


def studies() -> dict[str, Study]:
    """Every script of studies/ that declares a study, by its name; commands are left out."""
    scripts = sorted((ROOT / "studies").glob("*.py"))
    declaring = [path for path in scripts if re.search(r"^study = ", path.read_text(encoding="utf-8"), re.MULTILINE)]
    return {path.stem: runpy.run_path(str(path), run_name="reference")["study"] for path in declaring}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _studies() -> Iterator[str]:
    found = studies()
    yield f"## Studies\n\n{len(found)} scripts, each run as `python studies/NAME.py`. `--help` lists what they take.\n"
    rows = [
        (f"`{name}`", study.question, f"`{study.method}`", "; ".join(map(_axis, study.axes)), _printed(study.paper),
         f"`studies/{name}.py`")
        for name, study in found.items()
    ]  # fmt: skip
    yield from table(("name", "question", "method", "what it varies", "printed numbers beside it", "file"), rows)


def _axis(axis: Axis) -> str:
    names = ", ".join(f"`{name}`" for name in axis.names)
    if len(axis.names) > 1:
        return f"{names} together: {len(axis.values)} settings"
    if not axis.values:
        return f"{names}, searched"
    return f"{names}: {', '.join(str(value) for (value,) in axis.values)}"


def _printed(paper: PaperTable | None) -> str:
    if paper is None:
        return "none"
    tables = ", ".join(TABLE.sub(_numbered, name) for name in (paper.table, *paper.also))
    return f"{paper.source().citation}, {tables}"


def _numbered(found: re.Match[str]) -> str:
    return f"Table {found[1].upper()}{found[2]}"


def _methods() -> Iterator[str]:
    found = methods()
    yield (
        f"## Methods\n\n{len(found)} methods. *Noise* is what a method assumes of it: that it is zero-mean, "
        "independent from pixel to pixel, or of one strength, where the image is bright as where it is dark. *Phases* "
        "are the stretches of its training; a method that has only `measure` trains no network beforehand.\n"
    )
    rows = [
        (f"`{name}`", kind.title, _learns(kind), _assumes(kind), cited(kind), _phases(kind),
         f"`{kind.__module__.replace('.', '/')}.py`")
        for name, kind in found.items()
    ]  # fmt: skip
    yield from table(("name", "title", "learns from", "noise", "paper", "phases", "file"), rows)


def _learns(kind: type[Method]) -> str:
    named = ", ".join(FIELDS.get(name, name) for name in kind.assumes.fields)
    return f"{named}; given once and for all" if kind.assumes.given else named


def _assumes(kind: type[Method]) -> str:
    assumes = kind.assumes
    said = {
        "zero-mean": assumes.zero_mean,
        "independent pixels": assumes.pixel_independent,
        "one strength": assumes.signal_independent,
    }
    return ", ".join(name for name, needed in said.items() if needed) or "nothing"


def cited(kind: type[Method]) -> str:
    """The paper of a method, with a link where it has one; empty where it names none."""
    if kind.citation is not None:
        return f"[{kind.citation.text}]({kind.citation.url})"
    described = (sys.modules[kind.__module__].__doc__ or "").partition("\n\n")[0]
    found = CITED.search(" ".join(described.split()))
    return found[1] if found else ""


def _phases(kind: type[Method]) -> str:
    return ", ".join(f"`{one.name}`" for one in outline(kind.name, kind.recipes[OUTLINED].config, 1).phases())


def _taken(one: Criterion) -> str:
    return str(one.rank) if one.rank else "never"


def _sets() -> Iterator[str]:
    yield "## Public image sets\n\n`denoise-studies data fetch NAME` fetches them below `DENOISE_DATA`.\n"
    rows = [(f"`{one.name}`", one.description, str(len(one.files)), one.terms, _from(one.address))
            for one in PUBLIC.values()]  # fmt: skip
    yield from table(("name", "what it is", "files", "terms of use", "from"), rows)


def _from(address: str) -> str:
    return "public addresses" if address else "a server of your own (`DENOISE_DATA_URL`)"


if __name__ == "__main__":
    sys.exit(main())
