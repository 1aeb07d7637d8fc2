from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, prepared


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that was started once with its demo, and stopped."""
    yield from prepared(tmp_path_factory.mktemp("first") / "var")


@pytest.fixture
def installation(first_start: Installation, tmp_path: Path) -> Iterator[Installation]:
    """A copy of it of one's own; whatever the test starts on it is stopped."""
    copy = first_start.copy(tmp_path / "var")
    yield copy
    copy.stop()
