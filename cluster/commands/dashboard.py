"""Serve a page of the store's studies, their reports, and optuna-dashboard with all trainings.

It listens on this machine only, unless --host says otherwise; to see it from elsewhere, use `ssh -L`. The address that
is printed ends in a token, without which nothing is shown; $DENOISE_DASHBOARD_TOKEN sets it, and is then not printed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import sys
import tempfile
import webbrowser
from pathlib import Path

from cluster.console import Console
from cluster.results.store import Store
from cluster.watching.events import FOLDER
from cluster.watching.stored import add_store, existing_store
from denoise_core.errors import UserError

TOKEN = "DENOISE_DASHBOARD_TOKEN"
LEAST = 16
"""Characters of a token that somebody thought of."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    add_store(parser)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="0 for a free one (default: %(default)s)")
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")
    parser.add_argument("--tensorboard", metavar="FOLDER", help="write all curves there, as events for TensorBoard")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Serves until Ctrl-C; the exit status is 0. Raises UserError."""
    store = existing_store(flags.store)
    token, chosen = _token()
    _tensorboard(store, flags.tensorboard, console)
    from cluster.watching.pages import Pages
    from cluster.watching.server import LOOPBACK, Guard, serve

    pages = Pages(store)
    if isinstance(pages.studies, str):
        console.warn(f"The trainings are not shown, only studies and reports: {pages.studies}")
    own = flags.host in LOOPBACK
    server = serve(Guard(pages, token, LOOPBACK if own else None), flags.host, flags.port)
    if not own:
        console.warn(
            f"The dashboard listens on {flags.host}, for other machines too, and unencrypted: whoever reads the "
            "traffic learns the token. `ssh -L` to the default --host is safer."
        )
    host = os.uname().nodename if flags.host in ("0.0.0.0", "::") else flags.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/"
    if chosen:
        console.say(f"Dashboard: {address} (with ?token= and what ${TOKEN} holds). Ctrl-C ends it.")
    else:
        console.say(f"Dashboard: {address}?token={token}")
        console.say("Ctrl-C ends it. The address holds the key: do not pass it on.")
    opened = None if flags.no_open or not _has_browser() else _open(f"{address}?token={token}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.say("Stopped.")
    finally:
        server.server_close()
        if opened is not None:
            opened.unlink(missing_ok=True)
    return 0


def _token() -> tuple[str, bool]:
    """The token, and whether it was given. Raises UserError for one that can be guessed."""
    given = os.environ.get(TOKEN)
    if given is None:
        return secrets.token_urlsafe(32), False
    if len(given) < LEAST or not given.isascii() or not given.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"${TOKEN} is no token: give at least {LEAST} letters and digits (`openssl rand -hex 32` makes some), or "
            "unset it."
        )
    return given, True


def _tensorboard(store: Store, folder: str | None, console: Console) -> None:
    """Exports the curves where that is asked for, and says how to look at those that there are."""
    if folder is not None:
        from cluster.watching.events import export

        try:
            count = export(store, Path(folder).expanduser())
        except OSError as error:
            raise UserError(
                f"Nothing can be written to --tensorboard {folder} ({error.strerror}): give another."
            ) from None
        console.say(f"The curves of {count} trainings are in {folder}: tensorboard --logdir {shlex.quote(folder)}")
    elif store.local is not None and (store.local / FOLDER).is_dir():
        console.say(f"Curves, live: tensorboard --logdir {shlex.quote(str(store.local / FOLDER))}")


def _has_browser() -> bool:
    """Whether there is a screen: a text browser would take this terminal."""
    return sys.stdout.isatty() and (
        sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    )


def _open(address: str) -> Path:
    """Opens a browser through a file that only this user can read: everybody can read the arguments of a program."""
    with tempfile.NamedTemporaryFile("w", prefix="denoise-studies-", suffix=".html", delete=False) as page:
        page.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={address}"><a href="{address}">Open</a>')
    webbrowser.open(Path(page.name).as_uri())
    return Path(page.name)
