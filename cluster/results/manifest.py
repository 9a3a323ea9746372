"""What produced a trial: code revision, packages, hardware. Stored once for all trials that share it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cluster.results.store import Store

PACKAGES = ("denoise-studies", "torch", "numpy", "ray", "optuna", "pyarrow", "scikit-image", "scipy", "safetensors")


def write_manifest(store: Store) -> str:
    """Stores this process's manifest and returns its id."""
    text = json.dumps(manifest(), sort_keys=True)
    manifest_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    row = {"manifest_id": manifest_id, "created_at": datetime.now(UTC), "manifest_json": text}
    if manifest_id not in store.names("manifests"):
        store.write("manifests", manifest_id, [row])
    return manifest_id


@functools.cache
def manifest() -> dict[str, Any]:
    """Code, packages and hardware of this process."""
    gpus = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
    return {
        "code": code_revision(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def code_revision(root: Path) -> dict[str, str]:
    """Git's revision and a hash of what differs from it, new files included; else a hash of the package's files."""
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        digest = hashlib.sha256()
        for folder in ("denoise_core", "cluster"):
            for path in sorted((root / folder).rglob("*.py")):
                digest.update(path.read_bytes())
        return {"files_sha256": digest.hexdigest()[:16]}
    difference = _git(root, "diff", "HEAD") or ""
    for name in (_git(root, "ls-files", "--others", "--exclude-standard", "*.py") or "").splitlines():
        difference += f"\n{name}\n{(root / name).read_text(errors='replace')}"
    return {"git": revision, "diff_sha256": hashlib.sha256(difference.encode()).hexdigest()[:16] if difference else ""}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
