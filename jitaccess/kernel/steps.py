"""Labelled steps: where tests kill or freeze a process, to see that nothing half-done is believed.

Without JITACCESS_TEST_STEPS, which names a folder, a step is nothing. With it, a process that reaches a step for which
the folder holds a file takes that file away (one process does) and sends itself the signal it names.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_FOLDER = os.environ.get("JITACCESS_TEST_STEPS", "")


def step(label: str) -> None:
    """Say that this point is reached. `label` is "room.point", named for what has just happened."""
    if _FOLDER:
        _obey(Path(_FOLDER), label)


def _obey(folder: Path, label: str) -> None:
    taken = folder / f"{label}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        (folder / label).rename(taken)
        os.kill(os.getpid(), signal.Signals[taken.read_text().strip()])
