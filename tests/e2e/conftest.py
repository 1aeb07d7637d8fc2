from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nursery
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
def cold(first_start: Installation, tmp_path: Path) -> Iterator[Installation]:
    """A copy of it of one's own, just as it is; whatever the test starts on it is stopped."""
    copy = first_start.copy(tmp_path / "var")
    yield copy
    copy.stop()


@pytest.fixture
def installation(cold: Installation) -> Installation:
    """The same for tests that are not about how the demo's server is started: they get it warm."""
    nursery.put(cold.var)
    return cold
