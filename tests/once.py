"""What all processes of a run need and one of them makes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.databases import SHARED


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The path that `make` was given, by whichever process came first; the others wait until it has made it."""
    folder = Path(os.environ[SHARED])
    place, done = folder / name, folder / f"{name}.done"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)  # what another left who could not finish it
            make(place)
            done.touch()
    return place
