"""The command ``denoise-studies``: looks at stores and keeps them in order.

Every module of this package is a command of its name: the first line of its docstring is the help,
``configure(parser)`` declares its flags, ``run(flags, console)`` answers the exit status. A module whose name begins
with an underscore is none.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.console import Console
from cluster.ending import ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status: the command's, 2 for bad input or a store that is away, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = _parser(given).parse_args(given)
    console = Console()
    return ended(lambda: int(flags.run(flags, console)), console)


def discovered() -> dict[str, str]:
    """The commands with their docstrings. Nothing is imported: some commands take seconds to load."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        spec = importlib.util.find_spec(f"{__name__}.{module.name}")
        if module.name.startswith("_") or spec is None or spec.origin is None:
            continue
        found[module.name] = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return found


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """Knows all commands by name, and the flags of the one that is asked for."""
    parser = argparse.ArgumentParser(
        prog="denoise-studies",
        description="Looks at a results store and keeps it in order. Studies themselves are started by their scripts.",
        epilog="denoise-studies COMMAND --help says more of each.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, docstring in discovered().items():
        first = docstring.partition("\n")[0]
        command = commands.add_parser(
            name,
            help=f"{first[:1].lower()}{first[1:].rstrip('.')}".replace("%", "%%"),
            description=docstring.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if given[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{name}")
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser
