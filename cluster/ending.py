"""How a command ends: its exit status, and one sentence where a person can mend what is wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable

from cluster.console import Console
from cluster.results.files import StoreTrouble
from denoise_core.errors import UserError

BAD_INPUT, INTERRUPTED = 2, 130
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
"""A disk that is full or must not be written to."""


def ended(work: Callable[[], int], console: Console, interrupted: str = "") -> int:
    """The exit status of ``work``: its own, 2 for bad input or a store or disk that cannot be used, 130 at Ctrl-C."""
    try:
        return work()
    except (UserError, StoreTrouble) as error:
        console.complain(str(error))
        return BAD_INPUT
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        console.complain(
            f"{error.filename or 'A file'} cannot be used ({error.strerror}): free some space, or give another place; "
            "what is stored is safe."
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        if interrupted:
            console.say(interrupted)
        return INTERRUPTED
