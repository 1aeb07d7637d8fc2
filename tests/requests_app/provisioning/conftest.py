from __future__ import annotations

from typing import Any

import pytest

from requests_app.provisioning import registry
from requests_app.provisioning.rows import Target
from tests.requests_app.provisioning.shelf import Shelf


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """What targets of the kind "shelf" are worked by."""
    registry.kinds()
    shelf = Shelf()
    monkeypatch.setitem(registry._kinds, "shelf", shelf.of)
    return shelf


@pytest.fixture
def target(shelf: Shelf, db: Any) -> Target:
    """A target for everything on the git server."""
    return Target.objects.create(slug="shelf", kind="shelf", match="server:git\nrole:report-*\ndatabase:shop")


@pytest.fixture(autouse=True)
def _every_pause_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance cuts none of them, so that tests can say when something is due."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
