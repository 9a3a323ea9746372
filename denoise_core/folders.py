"""Folders that appear as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
"""What renaming a folder to the name of another that holds something fails with."""


def place(aside: Path, path: Path, is_whole: Callable[[Path], bool]) -> None:
    """Renames the folder ``aside`` to ``path``, unless one lies there that ``is_whole``, which is as good.

    Renamed first and asked afterwards: another process may do the same, and what lies there may change between a
    question and a deed. What is whole is never removed, so there is no moment without it. Raises OSError.
    """
    for last in (False, False, True):
        try:
            os.replace(aside, path)
            return
        except OSError as error:
            if last or error.errno not in TAKEN:
                raise
        if is_whole(path):
            return
        shutil.rmtree(path, ignore_errors=True)
