"""An S3 server on loopback for tests (moto's), behind a gate that refuses connections or writes when it is told to."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs as pafs
import pytest

BUCKET = "denoise"
SECRET = secrets.token_hex(20)
"""The fake secret key: what it is found in, it leaked into."""
VARIABLES = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Gate:
    """Passes connections on to the server, unless it is ``closed`` (refused) or ``read_only`` (writes get a 403)."""

    def __init__(self, target: int, host: str = "127.0.0.1", port: int = 0):
        self.target, self.closed, self.read_only, self.refused = target, False, False, 0
        self._listener = socket.create_server((host, port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def shut(self, seconds: float) -> Iterator[None]:
        """Refuses everything from now on, for so many seconds or to the end of the block."""
        self.close()
        timer = threading.Timer(seconds, self._reopen)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._reopen()

    def close(self) -> None:
        """Refuses everything from now on."""
        self.closed = True
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _reopen(self) -> None:
        self.closed = False

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.closed:
                self.refused += 1
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(ConnectionRefusedError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            self._open |= {client, server}
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server, watch=True)
            back.join()
            self._open -= {client, server}

    def _copy(self, source: socket.socket, target: socket.socket, watch: bool = False) -> None:
        with suppress(OSError):
            while content := source.recv(2**16):
                if watch and self.read_only and content.split(b" ", 1)[0] in (b"PUT", b"POST"):
                    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                    source.sendall(head + b"Content-Length: %d\r\n\r\n" % len(DENIED) + DENIED)
                    break
                target.sendall(content)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def server() -> Iterator[Gate]:
    """A running server with a bucket, and the environment that leads to it. Skips where moto is not installed."""
    pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[test]'")
    before = {name: os.environ.get(name) for name in (*VARIABLES, "AWS_ENDPOINT_URL")}
    with started() as port:
        gate = Gate(port)
        os.environ.update(VARIABLES, AWS_ENDPOINT_URL=f"http://127.0.0.1:{gate.port}")
        try:
            yield gate
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def started() -> Iterator[int]:
    """The server itself, with a bucket, on a port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        plain = pafs.S3FileSystem(
            access_key="test", secret_key=SECRET, region="us-east-1", endpoint_override=f"127.0.0.1:{port}",
            scheme="http", allow_bucket_creation=True,
        )  # fmt: skip
        plain.create_dir(BUCKET)
        yield port
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """``python -m tests.s3 HOST PORT FILE``: a server for other hosts, which refuses everything while FILE exists."""
    host, port, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with started() as target:
        gate = Gate(target, host, port)
        print("ready", flush=True)
        while True:
            if file.exists() and not gate.closed:
                gate.close()
            elif gate.closed and not file.exists():
                gate.closed = False
            time.sleep(0.1)


if __name__ == "__main__":
    main()
