"""The files of a store: whole or not there, on a local disk, a shared folder, S3 or GCS.

Whoever writes through :class:`Files` leaves either the old file or the new one, never half of it. A store that cannot
be reached for a while is waited for; what waiting does not mend is a :class:`StoreTrouble`, whose message is a sentence
for a person. Credentials come from the environment or the machine's role alone, so nothing here can write them down.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from denoise_core.errors import UserError

PATIENCE_S = 180.0
"""How long a store that does not answer is waited for."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between two tries; the last one is repeated."""
ALLOWED_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
"""What may follow the ? of an address: settings, never credentials."""

_HOPELESS = (
    "ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE_DOES_NOT_MATCH",
    "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "VALIDATION", "HTTP status 403", "HTTP status 400",
    "Access Denied", "NoSuchBucket", "Permission denied",
)  # fmt: skip
"""How the errors of object stores read that no waiting mends."""
_PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
"""Errors of shared folders whose server is away."""
_FULL = {errno.ENOSPC, errno.EDQUOT}

_T = TypeVar("_T")
log = logging.getLogger("denoise")


class StoreTrouble(OSError):
    """The store cannot be used any more: full, or away for longer than ``PATIENCE_S``. The message says what to do."""


class Files:
    """Reads and writes below one folder or address. ``local`` is its path where it is a folder, else None."""

    def __init__(self, location: str, patience_s: float = PATIENCE_S):
        self.filesystem, self.root = _resolve(location)
        # workers may run in another folder: a local store is named by its absolute path
        self.location = location if "://" in location else self.root
        self.local = Path(self.root) if isinstance(self.filesystem, pafs.LocalFileSystem) else None
        self.patience_s = patience_s

    def path(self, relative: str) -> str:
        """The path of a file as the filesystem takes it."""
        return posixpath.join(self.root, relative) if relative else self.root

    def write(self, relative: str, content: bytes, durable: bool = True) -> None:
        """Writes a whole file in place of the old one. What is ``durable`` survives a loss of power.

        Raises StoreTrouble where it does not fit or the store is away.
        """
        if self.local is not None:
            self.patiently(lambda: _write_local(Path(self.path(relative)), content, durable))
        else:
            self.patiently(lambda: self._write_remote(relative, content))

    def read(self, relative: str) -> bytes:
        """A whole file. Raises FileNotFoundError, StoreTrouble."""

        def once() -> bytes:
            with self.filesystem.open_input_stream(self.path(relative)) as stream:
                return bytes(stream.read())

        return self.patiently(once)

    def exists(self, relative: str) -> bool:
        """Whether there is such a file or folder."""
        if self.local is not None:
            return os.path.exists(self.path(relative))
        kind = self.patiently(lambda: self.filesystem.get_file_info(self.path(relative)).type)
        return bool(kind != pafs.FileType.NotFound)

    def entries(self, folder: str) -> list[str]:
        """The names of files and folders in ``folder``, hidden ones left out; none where there is no such folder."""
        if self.local is not None:
            try:
                return [one for one in os.listdir(self.path(folder)) if not one.startswith(".")]
            except FileNotFoundError:
                return []
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        found = self.patiently(lambda: self.filesystem.get_file_info(selector))
        return [one.base_name for one in found if not one.base_name.startswith(".")]

    def move(self, relative: str, target: str) -> None:
        """Moves a file. Raises FileNotFoundError where another process was faster."""
        if not self._is_object_store:
            self.patiently(lambda: self.filesystem.create_dir(posixpath.dirname(self.path(target)), recursive=True))
        self.patiently(lambda: self.filesystem.move(self.path(relative), self.path(target)))

    def delete(self, relative: str) -> None:
        """Deletes a file; it does no harm where there is none."""
        with suppress(FileNotFoundError):
            self.patiently(lambda: self.filesystem.delete_file(self.path(relative)))

    def delete_folder(self, folder: str) -> None:
        """Deletes a folder with all that is in it. What cannot be deleted stays."""
        if self.local is not None:
            shutil.rmtree(self.path(folder), ignore_errors=True)
            return
        with suppress(OSError):
            self.filesystem.delete_dir(self.path(folder))

    def patiently(self, call: Callable[[], _T]) -> _T:
        """The answer of ``call``, which is tried again while the store is away. Raises StoreTrouble."""
        began, tries = time.monotonic(), 0
        while True:
            try:
                answer = call()
            except (OSError, pa.ArrowException) as error:
                if isinstance(error, StoreTrouble) or not self._passes(error):
                    raise
                pause = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
                if time.monotonic() - began + pause > self.patience_s:
                    raise StoreTrouble(
                        f"The store {self.location} did not answer for {time.monotonic() - began:.0f} s "
                        f"({first_line(error)}): see that it can be reached; what is stored is safe, and the same "
                        "command goes on."
                    ) from None
                if tries == 0:
                    log.warning("the store %s does not answer (%s): trying again", self.location, first_line(error))
                tries += 1
                time.sleep(pause)
            else:
                if tries:
                    log.info("the store answers again after %.0f s", time.monotonic() - began)
                return answer

    @property
    def _is_object_store(self) -> bool:
        return isinstance(self.filesystem, (pafs.S3FileSystem, *_optional("GcsFileSystem")))

    def _passes(self, error: Exception) -> bool:
        """Whether an error may go away by waiting."""
        if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
            return False
        if self.local is not None:
            return isinstance(error, OSError) and error.errno in _PASSING
        return isinstance(error, OSError) and not any(word in str(error) for word in _HOPELESS)

    def _write_remote(self, relative: str, content: bytes) -> None:
        path = self.path(relative)
        if not self._is_object_store:  # these have no folders
            self.filesystem.create_dir(posixpath.dirname(path), recursive=True)
        with self.filesystem.open_output_stream(path) as stream:  # an object appears only when it is whole
            stream.write(content)


@contextmanager
def explained(path: Path, need: int) -> Iterator[None]:
    """Turns the error of a full disk into a sentence; ``need`` bytes were to be written to ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreTrouble(
            f"The disk is full: {path} needs {megabytes(need)}, and {path.parent} has {megabytes(_free(path.parent))} "
            "left. Free some space (denoise-studies gc removes what is no longer needed), or pass --store with another "
            "folder; what is stored is safe, and the same command goes on."
        ) from None


def megabytes(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.split(r"; Details: | \(Request ID", text)[0].rstrip(".")[:300]


def _write_local(path: Path, content: bytes, durable: bool) -> None:
    """Hidden names keep readers from seeing the part that is being written."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing")
    with explained(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                stream.write(content)
                if durable:
                    _flush(stream)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _optional(name: str) -> tuple[type, ...]:
    """A filesystem that not every build of Arrow has."""
    found = getattr(pafs, name, None)
    return (found,) if found is not None else ()


def _resolve(location: str) -> tuple[pafs.FileSystem, str]:
    try:
        if "://" in location:
            _refuse_credentials(location)
            address = _with_endpoint(location)
            filesystem, root = pafs.FileSystem.from_uri(address)
            return _in_one_request(filesystem, address), root.rstrip("/")
        path = Path(location).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise UserError(f"The store {location} is a file: pass --store with a folder.")
        path.mkdir(parents=True, exist_ok=True)
        return pafs.LocalFileSystem(), str(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"The store {location} cannot be used ({first_line(error)}): pass --store with a folder that you can write "
            "to, or an s3:// or gs:// address."
        ) from None


def _with_endpoint(location: str) -> str:
    """The address with the S3 server that the environment names, as every other S3 client understands it."""
    parts = urlsplit(location)
    server = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if parts.scheme != "s3" or not server.netloc or "endpoint_override" in parts.query:
        return location
    options = urlencode({"endpoint_override": server.netloc, "scheme": server.scheme or "https"})
    return f"{location}{'&' if parts.query else '?'}{options}"


def _in_one_request(filesystem: pafs.FileSystem, address: str) -> pafs.FileSystem:
    """The same, where it is S3 such that a small file is one request of the thread that writes it.

    By default it is three, and the upload goes on in the background, where one that fails has crashed the process.
    """
    if not isinstance(filesystem, pafs.S3FileSystem):
        return filesystem
    given = dict(parse_qsl(urlsplit(address).query))
    options: dict[str, Any] = {"region": filesystem.region, "background_writes": False}
    options |= {name: given[name] for name in ("scheme", "endpoint_override", "tls_ca_file_path") if name in given}
    try:
        return pafs.S3FileSystem(**options, allow_delayed_open=True)
    except TypeError:  # an older Arrow
        return pafs.S3FileSystem(**options)


def _refuse_credentials(location: str) -> None:
    """An address is written into logs, manifests and reports. Raises UserError, which does not repeat it."""
    parts = urlsplit(location)
    options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if (parts.username or parts.password or "@" in parts.netloc) or options - set(ALLOWED_OPTIONS):
        raise UserError(
            f"The address of the store ({parts.scheme}://...) holds more than bucket, path and "
            f"{', '.join(ALLOWED_OPTIONS[:3])}: leave credentials out of it and give them to every machine in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS) or as its role."
        )
