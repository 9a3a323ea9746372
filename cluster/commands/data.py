"""List public image sets, and fetch one by name.

``data list`` shows the sets and which of them lie below DENOISE_DATA. ``data fetch NAME`` shows a set's terms of use
and fetches what is missing; each file is checked by its pixels. Files come from public addresses, or from a server of
your own that DENOISE_DATA_URL names, with {path} where a file's path belongs, or as the beginning of the address.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cluster.console import Console
from cluster.results.files import megabytes
from cluster.watching.aligned import say_table
from denoise_core.errors import UserError

EVERY = 50
"""After so many fetched files a line says how far it is."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares what can be done, and the flags."""
    actions = parser.add_subparsers(metavar="list|fetch", dest="action", required=True)
    listing = actions.add_parser("list", help="the sets that can be fetched")
    fetching = actions.add_parser("fetch", help="fetch a set")
    fetching.add_argument("name", metavar="NAME", help="which set, see list")
    for one in (listing, fetching):
        one.add_argument("--to", metavar="FOLDER", help="the data folder (default: DENOISE_DATA)")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Lists or fetches; the exit status is 0. Raises UserError."""
    named = flags.to or os.environ.get("DENOISE_DATA", "")
    root = Path(named).expanduser() if named else None
    if flags.action == "list":
        _list(root, console)
    else:
        _fetch(flags.name, root, console)
    return 0


def _list(root: Path | None, console: Console) -> None:
    from denoise_core.images.registry import PUBLIC  # here: it loads PyTorch

    rows = [
        (one.name, str(len(one.files)), megabytes(one.size), "yes" if root and one.complete(root) else "no",
         "public" if one.address else "own server", one.description)
        for one in PUBLIC.values()
    ]  # fmt: skip
    say_table(console, ("set", "files", "size", "here", "from", "what it is"), rows, right="files, size")
    console.say(f"Data folder: {root}" if root else "No data folder: set DENOISE_DATA, or use --to.")


def _fetch(name: str, root: Path | None, console: Console) -> None:
    from denoise_core.images.registry import fetch, public_set

    wanted = public_set(name)
    if root is None:
        raise UserError(f"where should {name} go? Set DENOISE_DATA to your data folder, or use --to FOLDER.")
    console.say(f"{name}: {wanted.description}; {len(wanted.files)} files, {megabytes(wanted.size)}.", style="bold")
    console.say(f"Source: {wanted.source}.")
    console.say(f"Terms of use: {wanted.terms}")
    fetched = 0
    for number, (_, new) in enumerate(fetch(wanted, root), 1):
        fetched += new
        if new and fetched % EVERY == 0:
            console.say(f"{number} of {len(wanted.files)} files")
    there = len(wanted.files) - fetched
    console.say(f"{fetched} fetched, {there} were there. Use it with DENOISE_DATA={root} and the name {name}.")
