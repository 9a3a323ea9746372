"""The index page of the dashboard: one self-contained HTML page, light or dark as the reader's screen is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from urllib.parse import quote

import pandas as pd

from cluster.console import duration
from cluster.report.style import FONT, MONO
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.watching.stored import SHORT, labels, local_time

REFRESH_S = 30
"""Seconds after which the page is loaded again."""
FAILURES_SHOWN = 5

STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1d2733; --soft: #5b6775; --rule: #e3e7ec; --paper: #f6f8fa; --card: #fff;
  --link: #1f6fa8; --done: #1f6fa8; --pruned: #b8c4cf; --failed: #d1602f; --live: #2a9d7c; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4e9ef; --soft: #97a1ad; --rule: #2c353f; --paper: #11161c;
  --card: #1a2129; --link: #6db3e2; --done: #4b9cd3; --pruned: #56626e; --failed: #e5814f; --live: #46c39c; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 {FONT}; }}
main {{ max-width: 960px; margin: 0 auto; padding: 36px 24px 64px; }}
a {{ color: var(--link); text-decoration: none; }} a:hover {{ text-decoration: underline; }}
header {{ display: flex; flex-wrap: wrap; gap: 12px 24px; align-items: end; justify-content: space-between; }}
h1 {{ font-size: 22px; line-height: 1.3; margin: 0; }} .place {{ color: var(--soft); font: 13px {MONO}; }}
.place {{ overflow-wrap: anywhere; }}
.button {{ background: var(--link); color: var(--card); font-weight: 600; padding: 8px 14px; border-radius: 6px; }}
.strip {{ display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 22px 0; color: var(--soft); font-size: 13px; }}
.strip b {{ display: block; color: var(--ink); font-size: 22px; line-height: 1.2; }}
.strip b {{ font-variant-numeric: tabular-nums; }} .strip .failed b {{ color: var(--failed); }}
section {{ background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 20px;
  margin: 0 0 14px; }}
h2 {{ font: 600 15px/1.4 {MONO}; margin: 0; display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }}
h2 time {{ margin-left: auto; font: 13px {FONT}; color: var(--soft); }}
.bar {{ display: flex; height: 6px; border-radius: 3px; overflow: hidden; margin: 10px 0 8px; gap: 1px; }}
.bar i {{ display: block; }} .done {{ background: var(--done); }} .pruned {{ background: var(--pruned); }}
.bar .failed {{ background: var(--failed); }} p {{ margin: 0; color: var(--soft); font-size: 14px; }}
.live {{ font: 600 12px {FONT}; color: var(--live); }}
.live::before {{ content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 4px; margin-right: 5px;
  background: var(--live); }}
ul {{ list-style: none; margin: 10px 0 0; padding: 10px 0 0; border-top: 1px solid var(--rule); font-size: 14px; }}
li {{ display: flex; gap: 12px; align-items: baseline; padding: 2px 0; }}
li time {{ margin-left: auto; color: var(--soft); font-size: 13px; white-space: nowrap; }}
details {{ margin-top: 8px; font-size: 13px; }} summary {{ cursor: pointer; color: var(--failed); }}
details div {{ font: 12px/1.5 {MONO}; overflow-wrap: anywhere; margin: 4px 0; }}
footer {{ color: var(--soft); font-size: 13px; margin-top: 24px; }} code {{ font: 13px {MONO}; }}
"""


@dataclass(frozen=True)
class Report:
    """A report's file name, when it was written, and whether its study is still running."""

    name: str
    written: datetime
    live: bool

    @property
    def parts(self) -> list[str]:
        """Study, budget, kind of search and digest, as its name has them; all in the first where it has not."""
        return self.name.removesuffix(".html").rsplit("-", 3)


def index(location: str, trials: pd.DataFrame, reports: Sequence[Report], missing: str = "") -> str:
    """The page. ``missing`` says what is to be done where there is no optuna-dashboard."""
    studies = {str(name): rows for name, rows in trials.groupby("study", sort=False)}
    owned: dict[str, list[Report]] = {name: [] for name in studies}
    for one in sorted(reports, key=lambda one: one.written, reverse=True):
        owned.setdefault(one.parts[0], []).append(one)

    def last(name: str) -> tuple[bool, float]:
        moments = [one.written.timestamp() for one in owned[name]]
        moments += [studies[name]["finished_at"].max().timestamp()] if name in studies else []
        return any(one.live for one in owned[name]), max(moments)

    cards = [_card(name, studies.get(name), owned[name]) for name in sorted(owned, key=last, reverse=True)]
    empty = "<section><p>This store holds no trainings yet. Start a study, and this page shows it.</p></section>"
    to_optuna = (
        f"<p>{escape(missing)}</p>" if missing else '<a class="button" href="/dashboard">All trainings in Optuna</a>'
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Studies</title>'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><main><header><div><h1>Studies</h1><div class="place">{escape(location)}</div></div>{to_optuna}'
        f"</header>{_strip(trials, len(studies))}{''.join(cards) or empty}"
        f"<footer>The page is loaded again every {REFRESH_S} seconds. <code>denoise-studies ls</code> lists the "
        "trainings, <code>show</code>, <code>logs</code> and <code>compare</code> look into them.</footer>"
        "</main></body></html>\n"
    )


def _strip(trials: pd.DataFrame, studies: int) -> str:
    counts = _counts(trials)
    numbers = [("", studies, "study" if studies == 1 else "studies"), ("", counts[DONE], "trainings done")]
    numbers += [("", counts[PRUNED], "pruned")] if counts[PRUNED] else []
    numbers += [("failed", counts[FAILED], "failed")] if counts[FAILED] else []
    cells = "".join(f'<div class="{kind}"><b>{count:,}</b>{name}</div>' for kind, count, name in numbers)
    seconds = float((trials["train_s"].fillna(0) - trials["shared_s"].fillna(0)).sum())
    return f'<div class="strip">{cells}<div><b>{duration(seconds)}</b>of training</div></div>'


def _card(name: str, rows: pd.DataFrame | None, reports: Sequence[Report]) -> str:
    live = '<span class="live">running</span>' if any(one.live for one in reports) else ""
    if rows is None:
        waiting = "<p>Nothing is finished yet.</p>" if live else ""
        return f"<section><h2>{escape(name)}{live}</h2>{waiting}{_list(reports)}</section>"
    counts = _counts(rows)
    bar = "".join(f'<i class="{status}" style="flex:{count}"></i>' for status, count in counts.items() if count)
    facts = [f"{count} {status}" for status, count in counts.items() if count]
    seeds = rows["seed"].nunique()
    facts += [f"{seeds} seed{'s' * (seeds != 1)}", ", ".join(sorted(rows["budget"].unique()))]
    facts += [", ".join(sorted(rows["method"].unique()))]
    return (
        f"<section><h2>{escape(name)}{live}<time>{local_time(rows['finished_at'].max())}</time></h2>"
        f'<div class="bar">{bar}</div><p>{escape(" · ".join(filter(None, facts)))}</p>'
        f"{_failures(rows)}{_list(reports)}</section>"
    )


def _list(reports: Sequence[Report]) -> str:
    items = []
    for one in reports:
        text = " · ".join(one.parts[1:]) or one.name
        live = '<span class="live">running</span>' if one.live else ""
        items.append(
            f'<li><a href="/reports/{quote(one.name)}">Report {escape(text)}</a>{live}'
            f"<time>{one.written:%Y-%m-%d %H:%M}</time></li>"
        )
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _failures(rows: pd.DataFrame) -> str:
    """The last failures with their errors, folded away."""
    named = rows.assign(label=labels(rows))
    failed = named[named["status"] == FAILED]
    if failed.empty:
        return ""
    lines = "".join(
        f"<div>{row['trial_id'][:SHORT]} {escape(row['label'])}, seed {row['seed']}: {escape(row['error'][:300])}</div>"
        for row in failed.tail(FAILURES_SHOWN)[::-1].to_dict("records")
    )
    return f"<details><summary>what failed</summary>{lines}</details>"


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    counts = rows["status"].value_counts()
    return {status: int(counts.get(status, 0)) for status in (DONE, PRUNED, FAILED)}
