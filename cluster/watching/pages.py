"""The pages of the dashboard: an index of a store's studies, their reports, and optuna-dashboard behind them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cluster.results.store import Store
from cluster.watching.index import Report, index
from cluster.watching.server import STRICT, Application, Environ, StartResponse, answer, say
from cluster.watching.stored import Watched, listing
from denoise_core.errors import UserError

OPTUNA = ("dashboard", "api", "static", "csv", "artifacts", "favicon.ico")
"""The first part of the addresses that optuna-dashboard answers."""
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "frame-ancestors 'none'"
)
"""What a report needs: nothing from anywhere."""
HEAD_BYTES = 32_768
"""Where in a report the browser is told to load it again, if at all."""
HTML = "text/html; charset=utf-8"
_LIVE = re.compile(rb"<meta[^>]+http-equiv=[\"']?refresh", re.IGNORECASE)


class Pages:
    """The WSGI application of a store."""

    def __init__(self, store: Store):
        self.store, self.watched = store, Watched(store)
        self.studies = _optuna(self.watched)
        self._live: dict[tuple[str, int, int], bool] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        path = str(environ.get("PATH_INFO", ""))
        first, _, rest = path.lstrip("/").partition("/")
        if path in ("", "/"):
            return answer(environ, start_response, "200 OK", self._index(), HTML, [STRICT])
        if first == "reports" and rest in {name for name, _, _ in self._reports()}:
            page, policy = self.store.files.read(f"reports/{rest}"), ("Content-Security-Policy", REPORT_POLICY)
            return answer(environ, start_response, "200 OK", page, HTML, [policy])
        if first in OPTUNA:
            if isinstance(self.studies, str):
                return say(environ, start_response, "503 Service Unavailable", self.studies)
            return self.studies(environ, start_response)
        return say(environ, start_response, "404 Not Found", "There is no such page; / lists what there is.")

    def _reports(self) -> list[tuple[str, int, int]]:
        """Name, time and size of the reports, the newest first."""
        found = [one for one in listing(self.store, "reports") if one[0].endswith(".html")]
        return sorted(found, key=lambda one: one[1], reverse=True)

    def _is_live(self, report: tuple[str, int, int]) -> bool:
        """Whether a report is of a study that is running: its page then tells the browser to load it again."""
        if report not in self._live:
            path = self.store.files.path(f"reports/{report[0]}")
            with self.store.files.filesystem.open_input_stream(path) as stream:
                self._live[report] = _LIVE.search(stream.read(HEAD_BYTES)) is not None
        return self._live[report]

    def _index(self) -> bytes:
        _, trials = self.watched.trials()
        reports = [Report(one[0], datetime.fromtimestamp(one[1] / 1e9), self._is_live(one)) for one in self._reports()]
        missing = self.studies if isinstance(self.studies, str) else ""
        return index(self.store.location, trials, reports, missing).encode()


class _Studies:
    """optuna-dashboard over the store as it was when it last changed."""

    def __init__(self, watched: Watched):
        from cluster.watching.optuna_export import Exporter

        self._watched, self._exporter = watched, Exporter(watched.store)
        self._lock = threading.Lock()
        self._version, self._inner = 0, None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request. optuna-dashboard keeps what it has read, so a changed store needs another."""
        from optuna_dashboard import wsgi

        with self._lock:
            version, trials = self._watched.trials()
            if self._inner is None or version != self._version:
                self._inner, self._version = wsgi(self._exporter.export(trials)), version
            inner: Any = self._inner
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # it fails where a client does not send one
        answered: Iterable[bytes] = inner(environ, start_response)
        return answered


def _optuna(watched: Watched) -> Application | str:
    """optuna-dashboard, or why it is not there."""
    try:
        import optuna_dashboard  # noqa: F401
    except ImportError:
        return str(missing_dashboard())
    return _Studies(watched)


def missing_dashboard() -> UserError:
    """What to do where optuna-dashboard is not installed."""
    return UserError("optuna-dashboard is not installed: pip install 'denoise-studies[dashboard]' adds it.")
