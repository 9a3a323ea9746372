"""Tables of plain text: one line a row however wide it is, so that grep, head and a pipe can work with them."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.console import Console


def say_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Prints a table with its columns aligned; ``right`` names, separated by commas, the columns of numbers."""
    numbers = {name.strip() for name in right.split(",")}
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    for number, row in enumerate((head, *rows)):
        cells = [
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        console.out.out(line, style="bold" if number == 0 else None, highlight=False)
