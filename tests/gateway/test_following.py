"""Calls wait a moment while their process learns what policy has become, and are decided by what it is then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from jitaccess.gateway.recording import following
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store import wakeups
from requests_app.services import revoke_grant
from tests.cast import Cast
from tests.gateway.harness import Client, Served, eventually, ledger, settled
from tests.gateway.test_lane import Sent, _lane, _unaware, caller, quick, slow

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgresql_only]
__all__ = ["caller", "quick", "slow"]


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nobody learns anything about policy by looking before this is set."""
    free, whole = threading.Event(), SnapshotStore.newest

    def newest(self: SnapshotStore) -> Any:
        assert free.wait(20)
        return whole(self)

    monkeypatch.setattr(SnapshotStore, "newest", newest)
    yield free
    free.set()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def _behind(served: Served) -> bool:
    return bool(_lane(served).policy.behind)


def test_calls_that_policy_overtakes_are_let_through_on_the_event_loop(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    for _ in range(10):
        grant = cast.grant("git_commit")
        assert "content" in caller.call("git_log")
        revoke_grant(grant_id=grant.pk, user=cast.anna)
        assert "content" in caller.call("git_log")
    assert slow == []
    assert eventually(settled)


def test_a_call_waits_until_what_changed_is_known_and_is_decided_by_it(
    cast: Cast,
    caller: Client,
    quick: Served,
    slow: list[int],
    sent: Sent,
    learning: threading.Event,
    aside: ThreadPoolExecutor,
) -> None:
    grant = cast.grant("git_commit")
    learning.set()
    assert eventually(lambda: not _behind(quick))
    assert "content" in caller.call("git_commit")
    _unaware(quick)
    learning.clear()
    before, begun = len(sent()), len(ledger("call.authorized"))
    revoke_grant(grant_id=grant.pk, user=cast.anna)
    assert eventually(lambda: _behind(quick)), "the wake-up alone is enough"
    denied: Future[str] = aside.submit(caller.refusal, "git_commit")
    assert eventually(lambda: _lane(quick)._waiting)
    assert not denied.done()
    assert len(ledger("call.authorized")) == begun
    learning.set()
    assert denied.result(10) == "revoked"
    assert len(sent()) == before
    assert "content" in caller.call("git_log")


def test_what_cannot_be_learned_holds_nobody_for_long(
    cast: Cast,
    caller: Client,
    quick: Served,
    slow: list[int],
    learning: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "WAIT_SECONDS", 0.05)
    _unaware(quick)
    cast.grant("git_commit")
    assert "content" in caller.call("git_commit"), "the batch writer reads policy for itself"
    assert sum(slow) == 1


def test_a_wake_up_for_nothing_leaves_the_quick_way_open(
    caller: Client, quick: Served, slow: list[int], learning: threading.Event
) -> None:
    learning.set()
    wakeups.notify(wakeups.CHANNEL)
    assert eventually(lambda: not _behind(quick))
    for _ in range(5):
        assert "content" in caller.call("git_log")
    assert slow == []


def test_a_change_during_the_look_is_looked_for_again(
    cast: Cast, caller: Client, quick: Served, slow: list[int], learning: threading.Event, aside: ThreadPoolExecutor
) -> None:
    _unaware(quick)
    cast.grant("git_commit")
    other = cast.grant("git_reset")
    assert eventually(lambda: _behind(quick))
    call = aside.submit(caller.call, "git_commit")
    assert eventually(lambda: _lane(quick)._waiting)
    revoke_grant(grant_id=other.pk, user=cast.anna)
    learning.set()
    assert "content" in call.result(10)
    assert caller.refusal("git_reset") == "revoked"
    assert eventually(settled)
