"""Calls wait a moment while their process learns what policy has become, and are decided by what it is then."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import connection

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
    """Nobody learns anything about policy by looking before this is set; calls wait as long as that takes."""
    monkeypatch.setattr(following, "WAIT_SECONDS", 20.0)
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
    learning.set()
    policy = _lane(quick).policy
    # Not only `behind`: between two looks of which the first was asked for earlier, the next one has that one's patience.
    assert eventually(lambda: policy._over is None), "of what was before, for which it would wait for longer"
    learning.clear()
    _unaware(quick)
    cast.grant("git_commit")
    assert "content" in caller.call("git_commit"), "the batch writer reads policy for itself"
    assert sum(slow) == 1


def test_patience_ends_when_its_timer_says_so_whatever_the_clock_says(
    cast: Cast, caller: Client, quick: Served, learning: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop's time has milliseconds: added to it, 0.05 may be a little more than when its timer comes."""
    policy = _lane(quick).policy
    learning.set()
    assert eventually(lambda: policy._over is None)
    learning.clear()
    _unaware(quick)
    monkeypatch.setattr(following, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(type(quick.loop), "time", lambda loop: 0.0)
    cast.grant("git_commit")
    began = time.monotonic()
    assert "content" in caller.call("git_commit")
    assert time.monotonic() - began < 15, "it waited for the look, which takes twenty"


def test_a_wake_up_for_nothing_leaves_the_quick_way_open(
    caller: Client, quick: Served, slow: list[int], learning: threading.Event
) -> None:
    learning.set()
    wakeups.notify(wakeups.CHANNEL)
    assert eventually(lambda: not _behind(quick))
    for _ in range(5):
        assert "content" in caller.call("git_log")
    assert slow == []


def test_wake_ups_without_end_hold_nobody_up(
    caller: Client, quick: Served, slow: list[int], aside: ThreadPoolExecutor
) -> None:
    over = threading.Event()

    def storm() -> int:
        count = 0
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
            while not over.is_set():
                other.execute("SELECT pg_notify(%s, '')", [wakeups.CHANNEL])
                count += 1
        return count

    sent = aside.submit(storm)
    try:
        began = time.monotonic()
        for _ in range(20):
            assert "content" in caller.call("git_log")
        took = time.monotonic() - began
    finally:
        over.set()
    assert sent.result(10) > 20
    assert took < 20 * following.WAIT_SECONDS
    assert slow == []


def test_looks_that_follow_one_another_without_end_hold_nobody_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at a time, each followed by a turn of those who wait; and in the end they do not wait at all."""
    monkeypatch.setattr(following, "WAIT_SECONDS", 0.2)
    store: Any = SimpleNamespace(current=SimpleNamespace(stamp="one"))
    under_way, most, turns, held = 0, 0, 0, []

    async def look() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1

    def turn() -> None:
        nonlocal turns
        turns += 1

    async def storm() -> None:
        policy = following.Following(store, look, then=turn)
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        while loop.time() - began < 0.5:
            policy.moved()
            held.append((loop.time() - began, policy.behind))
            await asyncio.sleep(0.002)
        policy.close()
        policy.moved()
        assert not policy.behind

    asyncio.run(storm())
    assert most == 1
    assert turns > 10
    assert held[0][1]
    assert not any(behind for at, behind in held if at > 0.25)


def test_a_look_that_fails_is_followed_by_another_when_policy_moves_again() -> None:
    store: Any = SimpleNamespace(current=SimpleNamespace(stamp="one"))
    turns, looks = [0], [0]

    async def look() -> None:
        looks[0] += 1
        raise OSError

    def turn() -> None:
        turns[0] += 1

    async def twice() -> None:
        policy = following.Following(store, look, then=turn)
        for number in (1, 2):
            policy.overtaken("one")
            assert policy.behind
            while turns[0] < number:
                await asyncio.sleep(0)
            assert not policy.behind
            assert policy.was_overtaken("one")

    asyncio.run(twice())
    assert looks == [2]


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
