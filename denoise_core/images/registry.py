"""Public image sets by name: where they come from, on which terms, and what their pixels must be.

Files lie below the data folder as :mod:`denoise_core.images.named` reads them. They are checked by the SHA-256 of their
decoded samples (row by row, 16 bits little-endian), so that a copy that was packed anew is still the same image; JPEG
files by that of the file. Nothing is fetched unless it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import requests

from denoise_core.errors import UserError, nearest
from denoise_core.images.folder import READERS
from denoise_core.images.named import KNOWN

SETTING = "DENOISE_DATA_URL"
"""The environment variable with the address of a server that has the sets: ``{path}`` in it stands for the file's path
below the data folder, such as bsd68/test001.png; without it, the path is added at the end."""
TRIES, PAUSE_S, TIMEOUT_S = 3, 1.0, 30.0
"""How often a file is asked for, the pause before the second time, and how long a server may be silent."""
RAW = "https://raw.githubusercontent.com"
DNCNN = f"{RAW}/cszn/DnCNN/e93b27812d3ff523a3a79d19e5e50d233d7a8d0a"
DATA400 = f"{DNCNN}/TrainingCodes/DnCNN_TrainingCodes_v1.0/data/Train400"
N2N = f"{RAW}/TaoHuang2018/Neighbor2Neighbor/e66389ebef1e64d306d8fcb95f096cf427243452"
BSD = (
    "Berkeley Segmentation Dataset (Martin et al., ICCV 2001): non-commercial research and education; the copyright of "
    "the photographs stays with their owners. Cite the paper."
)
MICROSCOPE = (
    "no licence of the images is stated; research use. Cite Zhang et al., CVPR 2019 (FMD), and Zhou et al., ECCV "
    "Workshops 2020 (W2S)."
)


@dataclass(frozen=True)
class File:
    """One file: its path below the data folder, and what it must be."""

    path: str
    sha256: str
    of_samples: bool
    size: int

    def is_right(self, place: Path) -> bool:
        """Whether a file is there and has the right content. A damaged image is no right one."""
        if not place.is_file():
            return False
        if not self.of_samples:
            return hashlib.sha256(place.read_bytes()).hexdigest() == self.sha256
        try:
            (samples,) = READERS[Path(self.path).suffix](place)
        except Exception:  # decoders raise anything on a damaged file
            return False
        digest = hashlib.sha256(np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest() == self.sha256


@dataclass(frozen=True)
class PublicSet:
    """A set that can be fetched. ``address``: a public folder with these file names, empty where none is known."""

    name: str
    terms: str
    source: str
    address: str = ""

    @cached_property
    def files(self) -> tuple[File, ...]:
        """Its files, in the order of their paths."""
        listed = Path(__file__).with_name("checksums") / f"{self.name}.txt"
        found = []
        for line in listed.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                digest, kind, size, path = line.split(" ", 3)
                found.append(File(path, digest, kind == "samples", int(size)))
        return tuple(found)

    @property
    def size(self) -> int:
        """Bytes of all files, as they were packed when their sums were taken."""
        return sum(file.size for file in self.files)

    @property
    def description(self) -> str:
        """What it shows."""
        return KNOWN[self.name].description

    def complete(self, root: Path) -> bool:
        """Whether every file lies below the data folder ``root``. Their content is not looked at."""
        return all((root / file.path).is_file() for file in self.files)

    def url(self, file: File) -> str:
        """Where a file is asked for: at the server of the setting, else at the public address.

        Raises UserError where there is neither, or the setting is no address.
        """
        base = os.environ.get(SETTING, "").strip()
        if base and not base.startswith(("http://", "https://")):
            raise UserError(f"{SETTING} is {base!r}; it must be an address that begins with https:// or http://.")
        if base:
            return base.replace("{path}", file.path) if "{path}" in base else f"{base.rstrip('/')}/{file.path}"
        if not self.address:
            raise UserError(
                f"no public address of {self.name} with these files is known (they come from {self.source}); set "
                f"{SETTING} to a server that has {file.path}, or copy the files there yourself."
            )
        return f"{self.address}/{Path(file.path).name}"


_SETS = (
    PublicSet("train400", BSD, "github.com/cszn/DnCNN", DATA400),
    PublicSet("bsd68", BSD, "github.com/cszn/DnCNN", f"{DNCNN}/testsets/BSD68"),
    PublicSet("cbsd68", BSD, "github.com/TaoHuang2018/Neighbor2Neighbor", f"{N2N}/validation/BSD300/test"),
    PublicSet("cbsd400_train", BSD, "github.com/BIDS/BSDS500, its folders train and test"),
    PublicSet("kodak24", "Eastman Kodak Company, unrestricted use.", "github.com/TaoHuang2018/Neighbor2Neighbor"),
    PublicSet("set14", "collected from older sources, no licence stated; research use by custom.",
              "github.com/cszn/DnCNN, as BMP"),
    PublicSet("mcmaster18", "no explicit licence; for research. Cite Zhang, Wu, Buades & Li, JEI 2011.",
              "github.com/cszn/FFDNet, as TIFF"),
    PublicSet("cc15", "academic research, non-commercial, notice kept. Cite Nam et al., CVPR 2016.",
              "github.com/csjunxu/MCWNNM-ICCV2017"),
    PublicSet("polyu_sample", "non-commercial, notice kept (Hong Kong Polytechnic University). Cite Xu et al. 2018.",
              "github.com/csjunxu/PolyU-Real-World-Noisy-Images-Dataset"),
    PublicSet("sidd_sample", "MIT licence as the dataset's page states. Cite Abdelhamed, Lin & Brown, CVPR 2018.",
              "github.com/zsyOAOA/DANet"),
    PublicSet("w2s", MICROSCOPE, "github.com/ND-HowardGroup/Instant-Image-Denoising, its averages put on the scale of "
              "the noisy images"),
    PublicSet("fmd", MICROSCOPE, "github.com/ND-HowardGroup/Instant-Image-Denoising, split into channels"),
    PublicSet("em_isbi2012", "ISBI 2012 challenge: non-commercial research. Cite Cardona et al. 2010 and "
              "Arganda-Carreras et al. 2015.", "github.com/zhixuhao/unet, data/membrane/train/image"),
    PublicSet("ct_sample", "The Cancer Imaging Archive, TCGA-LUAD and TCGA-LUSC: CC BY 3.0 and its data usage policy. "
              "Never try to identify a person.", "github.com/ChrisKalahiki/CT-Image-Analysis-using-DWT"),
)  # fmt: skip

PUBLIC: dict[str, PublicSet] = {one.name: one for one in _SETS}
"""Every set that can be fetched, by name."""


def public_set(name: str) -> PublicSet:
    """The set of that name. Raises UserError that names the nearest, or says that it cannot be fetched."""
    if name in PUBLIC:
        return PUBLIC[name]
    if name in KNOWN:
        folder = KNOWN[name].folder or name
        raise UserError(
            f"{name} is not fetched here, since it is too large or needs its publisher's consent; get it from its "
            f"publisher and put it into the folder {folder} of the data folder."
        )
    raise UserError(f"There is no set '{name}' to fetch: {nearest(name, PUBLIC)}.")


def fetch(wanted: PublicSet, root: Path) -> Iterator[tuple[File, bool]]:
    """Fetches what is missing or wrong below ``root``; yields each file, and whether it had to be fetched.

    A file appears under its name only when its content is right, so what was interrupted goes on at the next call.
    Raises UserError where a server does not answer, lacks a file or has another one, and where the disk refuses.
    """
    for file in wanted.files:
        place = root / file.path
        if file.is_right(place):
            yield file, False
            continue
        _fetch_file(wanted.url(file), file, place)
        yield file, True


def _fetch_file(url: str, file: File, place: Path) -> None:
    """Under a hidden name, which no folder of images takes for an image, until it is checked."""
    aside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _patiently(lambda: _download(url, aside), url)
        checked = aside.with_suffix(place.suffix)  # readers go by the suffix
        aside.replace(checked)
        aside = checked
        if not file.is_right(aside):
            raise UserError(
                f"{url} is not the image that {file.path} must be (its checksum differs), so it was not kept; use "
                f"another source, by {SETTING}."
            )
        aside.replace(place)
    except requests.RequestException as error:
        raise UserError(
            f"{url} could not be fetched ({_reason(error)}); what is there stays, try again later."
        ) from None
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror or error}); make room or use --to.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _download(url: str, place: Path) -> None:
    from pooch import HTTPDownloader  # here: only who fetches needs it

    HTTPDownloader(timeout=TIMEOUT_S, progressbar=False)(url, str(place), None)


def _patiently(attempt: Callable[[], None], url: str) -> None:
    """Tries again after a connection that broke or a busy server, not after an answer that will stay the same."""
    for number in range(1, TRIES + 1):
        try:
            return attempt()
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code < 500 or number == TRIES:
                raise
        except requests.RequestException:
            if number == TRIES:
                raise
        time.sleep(PAUSE_S * 2 ** (number - 1))


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"the server was silent for {TIMEOUT_S:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection to the server"
    return type(error).__name__
