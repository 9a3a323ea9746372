"""Named sets fetched from a server: what arrives, what is refused, what goes on after an interruption."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.commands import main
from denoise_core.images import registry
from denoise_core.images.named import KNOWN, load_images
from denoise_core.images.registry import PUBLIC, File, PublicSet, public_set


class Server(http.server.ThreadingHTTPServer):
    """Gives the files of a folder; ``asked`` are their paths, ``cut`` those that break off half-way."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut, self.busy = folder, list[str](), set[str](), dict[str, int]()
        super().__init__(("127.0.0.1", 0), Handler)

    @cached_property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        file = self.server.folder / path
        if self.server.busy.get(path, 0) > 0:
            self.server.busy[path] -= 1
            self.send_error(503)
        elif not file.is_file():
            self.send_error(404)
        else:
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if path in self.server.cut else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of a set ``kodak24`` of three images, which are told from others as the real ones are."""
    folder = tmp_path / "served"
    (folder / "kodak24").mkdir(parents=True)
    files = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        path = f"kodak24/kodim{number + 1:02d}.png"
        Image.fromarray(pixels).save(folder / path)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        files.append(File(path, digest, True, (folder / path).stat().st_size))
    small = PublicSet("kodak24", "for everyone who is kind.", "a test")
    small.__dict__["files"] = tuple(files)
    monkeypatch.setitem(registry.PUBLIC, "kodak24", small)
    monkeypatch.setattr(registry, "PAUSE_S", 0.01)
    given = Server(folder)
    monkeypatch.setenv(registry.SETTING, given.address)
    monkeypatch.delenv("DENOISE_DATA", raising=False)
    threading.Thread(target=given.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield given
    given.shutdown()
    given.server_close()


def fetched(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_a_set_is_fetched_once_and_read_by_its_name(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    assert main(["data", "fetch", "kodak24", "--to", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.index("for everyone who is kind") < said.index("3 fetched, 0 were there")
    assert len(load_images("kodak24", channels=None, data_root=root)) == 3
    assert main(["data", "fetch", "kodak24", "--to", str(root)]) == 0
    assert "0 fetched, 3 were there" in capsys.readouterr().out
    assert len(server.asked) == 3


def test_what_was_packed_anew_is_the_same_image(server: Server, tmp_path: Path) -> None:
    packed = server.folder / "kodak24/kodim01.png"
    before = packed.read_bytes()
    with Image.open(packed) as image:
        image.copy().save(packed, compress_level=0)
    assert packed.read_bytes() != before
    assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 0


def test_another_image_is_refused_and_not_kept(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 24)).save(server.folder / "kodak24/kodim02.png")
    assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "kodim02.png" in error and "checksum differs" in error
    assert fetched(tmp_path / "data") == ["kodak24/kodim01.png"]


def test_what_breaks_off_leaves_nothing_and_goes_on(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut.add("kodak24/kodim02.png")
    root = tmp_path / "data"
    assert main(["data", "fetch", "kodak24", "--to", str(root)]) == 2
    assert "kodim02.png could not be fetched (the connection broke off)" in capsys.readouterr().err
    assert fetched(root) == ["kodak24/kodim01.png"]
    assert server.asked.count("kodak24/kodim02.png") == registry.TRIES
    server.cut.clear()
    assert main(["data", "fetch", "kodak24", "--to", str(root)]) == 0
    assert server.asked.count("kodak24/kodim01.png") == 1 and len(fetched(root)) == 3


def test_an_interruption_leaves_whole_files_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry._download

    def interrupted(url: str, place: Path) -> None:
        if url.endswith("kodim03.png"):
            place.write_bytes(b"half")
            raise KeyboardInterrupt
        real(url, place)

    monkeypatch.setattr(registry, "_download", interrupted)
    assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 130
    assert fetched(tmp_path / "data") == ["kodak24/kodim01.png", "kodak24/kodim02.png"]


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    main(["data", "fetch", "kodak24", "--to", str(root)])
    place = root / "kodak24/kodim03.png"
    whole = place.read_bytes()
    place.write_bytes(whole[:100])
    assert main(["data", "fetch", "kodak24", "--to", str(root)]) == 0
    assert place.read_bytes() == whole and server.asked.count("kodak24/kodim03.png") == 2


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.busy["kodak24/kodim01.png"] = 1
    (server.folder / "kodak24/kodim03.png").unlink()
    assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "kodim03.png could not be fetched (the server answers 404)" in error
    asked = [server.asked.count(f"kodak24/kodim{number:02d}.png") for number in (1, 2, 3)]
    assert asked == [2, 1, 1]


def test_an_address_may_have_the_path_inside(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.SETTING, f"{server.address}/{{path}}?token=1")
    one = PUBLIC["kodak24"]
    assert one.url(one.files[0]) == f"{server.address}/kodak24/kodim01.png?token=1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kodac24", "did you mean 'kodak24'?"),
        ("sidd_medium", "put it into the folder SIDD_Medium_Srgb"),
    ],
)
def test_unknown_names_are_told(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", name, "--to", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not (tmp_path / "data").exists()


def test_no_network_no_address_and_no_folder_are_each_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"http://127.0.0.1:9": "there is no connection to the server", "ftp://x": "begins with https://"}
    cases[""] = f"set {registry.SETTING} to a server that has kodak24/kodim01.png"
    for address, said in cases.items():
        monkeypatch.setenv(registry.SETTING, address)
        assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error, error
    assert main(["data", "fetch", "kodak24"]) == 2
    assert "Set DENOISE_DATA to your data folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file")
    assert main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_list_shows_what_is_here(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "fetch", "kodak24", "--to", str(tmp_path / "data")])
    capsys.readouterr()
    assert main(["data", "list", "--to", str(tmp_path / "data")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " yes " in lines["kodak24"] and " no " in lines["bsd68"]
    assert set(PUBLIC) <= set(lines)


def test_every_set_is_one_that_studies_know_and_has_files_and_terms() -> None:
    for name, one in PUBLIC.items():
        folder = KNOWN[name].folder or name
        assert one.files and one.terms and all(file.path.startswith(f"{folder}/") for file in one.files)
        assert len({file.path for file in one.files}) == len(one.files)
        if one.address:
            assert one.url(one.files[0]).startswith("https://")
    assert public_set("w2s").files[0].size > 0


@pytest.mark.parametrize("name", ["ct_sample", "polyu_sample", "w2s", "set14"])
def test_real_files_are_right(name: str, data_root: Path) -> None:
    files = PUBLIC[name].files[::7]
    if not (data_root / files[0].path).is_file():
        pytest.skip(f"{name} is not in the data folder")
    assert all(file.is_right(data_root / file.path) for file in files)
    assert not files[0].is_right(data_root / files[1].path)
