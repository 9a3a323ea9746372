"""A small web server that answers whoever knows its token, and changes nothing.

Every request needs the token: once as ``?token=`` of the address that the terminal prints, which is then kept in a
cookie that no script and no other site can use, or as ``Authorization: Bearer``. Only GET and HEAD are answered, so
that nothing behind it can be changed. Where the server listens on this machine only, it must also be called by a name
of this machine: otherwise a page of another site could have its own name point here (DNS rebinding).
"""

from __future__ import annotations

import hmac
import html
import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from denoise_core.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that no other machine can be reached by."""
IDLE_S = 60.0
"""How long a connection may say nothing."""
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
STRICT = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class Guard:
    """Lets through to ``inner`` only who may see it. ``names`` are the hosts that it may be called by, None for any."""

    def __init__(self, inner: Application, token: str, names: Iterable[str] | None = LOOPBACK):
        self.inner, self._token = inner, token
        self._names = None if names is None else frozenset(names)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        if self._names is not None and _host(environ) not in self._names:
            return say(
                environ, start_response, "403 Forbidden", "This address is not one that the server is called by."
            )
        given = dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("token")
        if given is not None and self._fits(given):
            return self._welcome(environ, start_response)
        if not any(self._fits(one) for one in self._carried(environ)):
            sentence = "Open the address that denoise-studies dashboard printed: it ends in the token that is missing."
            return say(environ, start_response, "401 Unauthorized", sentence, [("WWW-Authenticate", "Bearer")])
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            sentence = "Nothing can be changed here: the store is the truth."
            return say(environ, start_response, "405 Method Not Allowed", sentence, [("Allow", "GET, HEAD")])

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            added = [one for one in HEADERS if one[0].lower() not in present]
            if not environ.get("PATH_INFO", "").startswith("/static/") and "cache-control" not in present:
                added.append(("Cache-Control", "no-store"))
            return start_response(status, headers + added, *more)

        return self.inner(environ, start)

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())

    def _carried(self, environ: Environ) -> Iterable[str]:
        """The tokens that a request brings along, other than in its address."""
        kind, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            yield value.strip()
        # by hand: the parser of Python gives up at the first odd cookie, and all ports of a host share theirs
        for pair in environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == _cookie(environ):
                yield value

    def _welcome(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Sets the cookie and goes on to the same address without the token, so that it stays in no history.

        A page that goes on, not a redirect: after a link from elsewhere a browser sends a strict cookie only then.
        """
        rest = [one for one in parse_qsl(environ.get("QUERY_STRING", "")) if one[0] != "token"]
        path = "/" + quote(environ.get("PATH_INFO", "").lstrip("/"), encoding="latin-1", safe="/")
        target = html.escape(path + (f"?{urlencode(rest)}" if rest else ""))
        page = f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on</a>'
        value = f"{_cookie(environ)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [("Set-Cookie", value), ("Cache-Control", "no-store"), STRICT]
        return answer(environ, start_response, "200 OK", page.encode(), "text/html; charset=utf-8", headers)


def answer(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    content: bytes,
    kind: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    """A whole answer; HEAD is told its headers only."""
    own = [("Content-Type", kind), ("Content-Length", str(len(content))), *headers]
    present = {name for name, _ in own}
    start_response(status, [*own, *(one for one in HEADERS if one[0] not in present)])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]


def say(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    sentence: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    """One plain sentence."""
    more = [*headers, ("Cache-Control", "no-store"), STRICT]
    return answer(environ, start_response, status, f"{sentence}\n".encode(), "text/plain; charset=utf-8", more)


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the first request's address holds the token."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As the base class does, without asking a name server for this machine's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that hangs up is no news, and an error in a page was answered with status 500."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(application: Application, host: str, port: int) -> WSGIServer:
    """A server that listens already; call its ``serve_forever``. Port 0 is a free one. Raises UserError."""
    try:
        return make_server(host, port, application, _Server6 if ":" in host else _Server, _Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Nothing can listen on port {port} of {host} ({reason}): give another --port, or none for a free one."
        ) from None


def _host(environ: Environ) -> str:
    """The name that the client calls this server by, without the port."""
    text = str(environ.get("HTTP_HOST", "")).lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _cookie(environ: Environ) -> str:
    # browsers do not tell the ports of a host apart, and there may be two dashboards
    return f"denoise_token_{environ.get('SERVER_PORT', '')}"
