from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jitaccess.kernel.errors import Conflict
from requests_app.lifecycle import RequestStatus, ensure_pending, grant_state

pytestmark = pytest.mark.pure

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def test_pending_ends_once() -> None:
    ensure_pending("pending", said="")
    for status in set(RequestStatus) - {RequestStatus.PENDING}:
        with pytest.raises(Conflict, match="Already denied by anna"):
            ensure_pending(status, said="denied by anna")


@pytest.mark.parametrize(
    ("minutes", "ended", "state"),
    [(-1, False, "scheduled"), (0, False, "active"), (9, False, "active"), (10, False, "ended"), (5, True, "ended")],
)
def test_a_grant_is_live_from_its_start_until_just_before_its_end(minutes: int, ended: bool, state: str) -> None:
    at = NOW + timedelta(minutes=minutes)
    assert grant_state(starts_at=NOW, expires_at=NOW + timedelta(minutes=10), ended=ended, at=at) == state
