from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, prepared


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation that was started once with its demo, and stopped: one for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "first-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "first-start.url"
        if not done.exists():
            done.write_text(prepared(folder / "first-start").database_url)
    return Installation(folder / "first-start", done.read_text())


@pytest.fixture
def installation(first_start: Installation, tmp_path: Path) -> Iterator[Installation]:
    """A copy of it of one's own; whatever the test starts on it is stopped."""
    copy = first_start.copy(tmp_path / "var")
    yield copy
    copy.stop()
