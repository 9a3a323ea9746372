"""SIGTERM in a process whose work runs in a thread: it is told, and the process lives on."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, threading, time
from cluster.execution.notice import when_told_to_end
told = threading.Event()
def work():
    when_told_to_end(told.set)
    time.sleep(0.3)  # the main thread runs Python meanwhile, and sets the handler
    os.kill(os.getpid(), signal.SIGTERM)
thread = threading.Thread(target=work)
thread.start()
for _ in range(100):
    time.sleep(0.02)
thread.join()
print("told" if told.is_set() else "not told")
"""


def test_sigterm_is_told_and_ends_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "told"), done.stderr
