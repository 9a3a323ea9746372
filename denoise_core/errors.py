"""Errors that are shown to a person: one sentence that says what was wrong, what is expected and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a bad environment. The message is complete by itself; no traceback is shown for it."""


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite. The trial is recorded as failed with this message."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint for a misspelt name: ``did you mean 'gamma'?``, followed by all the options.

    >>> nearest("gama", ["gamma", "sampler"])
    "did you mean 'gamma'? Known: gamma, sampler"
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}"
