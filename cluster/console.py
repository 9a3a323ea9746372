"""What the terminal shows: the plan, the live state of a running study, the verdict. All output goes through here."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # it would load PyTorch
    from cluster.execution.board import Snapshot

POLL_S = 1.0
WAITING_S = 20.0
"""How long a study may be without any worker before it says what it waits for."""


class Console:
    """Prints for a person; on a pipe it prints a line a finished trial instead of a live table."""

    def __init__(self) -> None:
        self.out = rich.console.Console(highlight=False, soft_wrap=True)
        self.err = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """One line or paragraph."""
        self.out.print(escape(text), style=style or None)

    def complain(self, text: str) -> None:
        """Bad input: the sentence, nothing else."""
        self.err.print(f"[bold red]error:[/] {escape(text)}")

    def warn(self, text: str) -> None:
        """Something that the reader should know and that does not stop the study."""
        self.err.print(f"[yellow]note:[/] {escape(text)}")

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A plain table."""
        table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for name in head:
            table.add_column(name)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    @contextlib.contextmanager
    def watching(
        self, board: Any, interrupted: threading.Event, lanes: int, waiting: Callable[[], str]
    ) -> Iterator[None]:
        """Shows the board's state until the block ends; passes an interruption on to the board.

        ``waiting`` says what a study waits for that has no worker yet.
        """
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(board, interrupted, over, lanes, waiting), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join(timeout=10)

    def _watch(
        self,
        board: Any,
        interrupted: threading.Event,
        over: threading.Event,
        lanes: int,
        waiting: Callable[[], str],
    ) -> None:
        import ray

        seen, told, stopping, started = 0, 0, False, time.time()
        asked = started + WAITING_S
        live = Live(console=self.out, refresh_per_second=4, transient=True) if self.out.is_terminal else None
        with live or contextlib.nullcontext():
            while True:
                last = over.is_set()
                try:
                    snapshot: Snapshot = ray.get(board.snapshot.remote(), timeout=5)
                except (
                    Exception
                ):  # the board is gone or busy; the study itself notices the first and survives the second
                    if last:
                        return
                    over.wait(POLL_S)
                    continue
                if interrupted.is_set() and not stopping:
                    stopping = True
                    board.stop.remote()
                    self.say("Stopping: every training finishes its step and saves. Again Ctrl-C ends at once.")
                for ended in snapshot.finished[seen:]:
                    self._ended(ended)
                for note in snapshot.notes[told:]:
                    self.warn(note)
                seen, told = len(snapshot.finished), len(snapshot.notes)
                if asked and (snapshot.finished or snapshot.running):
                    asked = 0.0
                elif asked and time.time() > asked:
                    asked = 0.0
                    if reason := waiting():
                        self.say(reason, style="yellow")
                if live is not None:
                    live.update(_picture(snapshot, started, lanes))
                if last:
                    return
                over.wait(POLL_S)

    def _ended(self, ended: tuple[str, int, str, float | None, float]) -> None:
        label, seed, status, value, seconds = ended
        colour = {"done": "green", "pruned": "yellow", "failed": "bold red"}[status]
        quality = f"{value:6.2f} dB on validation" if value is not None else ""
        self.out.print(f"[{colour}]{status:>7}[/]  {escape(label):<34} seed {seed}  {quality}  [dim]{seconds:.0f} s[/]")


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _picture(snapshot: Snapshot, started: float, lanes: int) -> Group:
    """Counts and time left, the best so far, a bar, then one line a running training."""
    ended = snapshot.done + snapshot.pruned + snapshot.failed
    total = ended + len(snapshot.running) + snapshot.left
    counts = f"{snapshot.done} done"
    counts += f", {snapshot.pruned} pruned" if snapshot.pruned else ""
    counts += f", {snapshot.failed} failed" if snapshot.failed else ""
    counts += f" · {len(snapshot.running)} running · {snapshot.left} left · {duration(time.time() - started)}"
    left = _time_left(snapshot, lanes)
    counts += f" · about {duration(left)} to go" if left is not None else ""
    counts += " · Ray is starting its workers" if not ended and not snapshot.running else ""
    lines: list[RenderableType] = [_line(counts, "bold")]
    if snapshot.best:
        lines.append(_line(f"best so far: {snapshot.best[0]}, {snapshot.best[1]:.2f} dB on validation", "cyan"))
    lines.append(ProgressBar(total=max(1, total), completed=ended + _parts(snapshot), width=50))
    running = Table.grid(padding=(0, 2))
    for one in snapshot.running:
        state = f"step {one.step:,} of {one.steps:,}" if one.step else "starting"
        bar = ProgressBar(total=max(1, one.steps), completed=one.step, width=16)
        running.add_row(_line(f"  {one.label}, seed {one.seed}"), bar, _line(state, "dim"))
    return Group(*lines, running)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _parts(snapshot: Snapshot) -> float:
    return sum(one.step / max(1, one.steps) for one in snapshot.running)


def _time_left(snapshot: Snapshot, lanes: int) -> float | None:
    """From the mean time of what is finished; None before anything is."""
    seconds = [one[4] for one in snapshot.finished if one[2] == "done" and one[4] > 1]
    if not seconds:
        return None
    todo = snapshot.left + len(snapshot.running) - _parts(snapshot)
    return todo * sum(seconds) / len(seconds) / max(1, lanes)
