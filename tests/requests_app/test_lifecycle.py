from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from jitaccess.kernel.errors import Conflict
from requests_app.lifecycle import Group, RequestStatus, approved, ensure_pending, grant_state, progress

pytestmark = pytest.mark.pure

ONE, TWO = (Group(UUID(int=number), f"group-{number}", number) for number in (1, 2))
ANNA, BERT, CARL = (UUID(int=number) for number in (11, 12, 13))
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def test_one_person_counts_once_however_often_they_approve() -> None:
    (found,) = progress([TWO], {TWO.id: [ANNA, BERT]}, [ANNA, ANNA], [])
    assert not found.met
    assert found.missing == 1


def test_only_members_count_and_self_never() -> None:
    members = {TWO.id: {ANNA, BERT}}
    assert not approved(progress([TWO], members, [ANNA, CARL], []))
    assert not approved(progress([TWO], members, [ANNA, BERT], {ANNA}))
    assert approved(progress([TWO], members, [ANNA, BERT], {CARL}))


def test_every_group_must_be_met() -> None:
    members = {ONE.id: {ANNA}, TWO.id: {ANNA, BERT}}
    assert not approved(progress([ONE, TWO], members, [ANNA], []))
    assert approved(progress([ONE, TWO], members, [ANNA, BERT], []))


def test_nothing_is_approved_by_nobody() -> None:
    assert not approved(())
    zero = Group(UUID(int=9), "zero", 0)
    assert not approved(progress([zero], {}, [], []))
    assert not approved(progress([ONE], {}, [ANNA], [])), "a group that is gone has no members"


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
