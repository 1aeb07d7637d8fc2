from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, prepared
from tests.once import once


@pytest.fixture(scope="session")
def first_start(migrated: str) -> Installation:
    """An installation that was started once with its demo, and stopped: one for all workers of a run."""

    def make(var: Path) -> None:
        url = prepared(var, migrated=migrated).database_url
        (var / "database.url").write_text(url)

    var = once("first-start", make)
    return Installation(var, (var / "database.url").read_text())


@pytest.fixture
def installation(first_start: Installation, tmp_path: Path) -> Iterator[Installation]:
    """A copy of it of one's own; whatever the test starts on it is stopped."""
    copy = first_start.copy(tmp_path / "var")
    yield copy
    copy.stop()
