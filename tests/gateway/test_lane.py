"""The quick way onto the record: nothing is let through there that a close look would refuse, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from msgspec import structs

from jitaccess.audit.models import Bundle, Entry
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording import admission, lane, packet
from jitaccess.gateway.recording.facts import Guess, Intent, Waiting
from jitaccess.gateway.recording.instances import end_lease
from jitaccess.identity.services import revoke_token
from jitaccess.kernel.ids import uuid7
from jitaccess.store.clock import now
from requests_app.models import Grant
from requests_app.services import revoke_grant
from tests.cast import Cast
from tests.clocks import Clock
from tests.entered import enter_all
from tests.gateway.harness import Client, Served, eventually, ledger, ledger_held, settled, told
from tests.gateway.test_entries_of_calls import columns, written_otherwise

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgresql_only]
Sent = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls the batch writer decided, one number for each of its batches."""
    batches: list[int] = []
    whole = admission.admit_batch

    def counted(intents: Any, **options: Any) -> Any:
        batches.append(len(intents))
        return whole(intents, **options)

    monkeypatch.setattr(admission, "admit_batch", counted)
    return batches


@pytest.fixture
def quick(gateway: Served) -> Served:
    """A gateway whose lane is open."""
    assert eventually(lambda: _lane(gateway).open)
    return gateway


@pytest.fixture
def caller(cast: Cast, quick: Served) -> Iterator[Client]:
    with quick.client(cast) as client:
        client.call("git_log")  # what it needs is known from here on
        eventually(settled)
        yield client


def _lane(served: Served) -> lane.Lane:
    found = served.gateway.admission._lane
    assert found is not None
    return found


def _sessions(what: str) -> int:
    """End the sessions of the database whose last statement was like this; returns how many there were."""
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        found = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE %s AND pid <> pg_backend_pid()",
            [what],
        )
        return len(found.fetchall())


def test_an_allowed_call_needs_no_other_thread(caller: Client, slow: list[int], sent: Sent) -> None:
    for _ in range(5):
        assert "content" in caller.call("git_log")
    assert slow == []
    assert len(sent()) == 6
    assert eventually(settled)


def test_its_entry_is_the_one_that_the_batch_writer_would_write(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    assert "content" in caller.call("git_log", path="/srv")
    quick_entry = ledger("call.authorized")[-1]
    quick.run(quick.gateway.admission.stop_lane())
    assert "content" in caller.call("git_log", path="/srv")
    slow_entry = ledger("call.authorized")[-1]
    assert slow == [1]
    assert columns(quick_entry.uid, "at", "call") == columns(slow_entry.uid, "at", "call")
    bindings = tuple(cast.verdict("git_log").bindings)
    again = written_otherwise(quick_entry, cast.principal(client=quick_entry.client).actor(), bindings)
    but = ("server_name", "tool", "source")
    assert columns(quick_entry.uid, *but) == columns(again, *but)


def _unaware(served: Served) -> None:
    """From here on it learns of changes by its batches alone."""
    watcher = served.gateway._tasks[0]
    served.loop.call_soon_threadsafe(watcher.cancel)
    assert eventually(watcher.done)


def test_what_policy_took_away_is_refused_in_the_next_call(
    cast: Cast, caller: Client, quick: Served, slow: list[int], sent: Sent
) -> None:
    grant = cast.grant("git_commit")
    assert "content" in caller.call("git_commit")
    _unaware(quick)
    before, begun = len(sent()), len(ledger("call.authorized"))
    del slow[:]
    revoke_grant(grant_id=grant.pk, user=cast.anna)
    assert caller.refusal("git_commit") == "revoked"
    assert (len(sent()), len(ledger("call.authorized"))) == (before, begun)
    assert slow == [1]
    assert "content" in caller.call("git_log")
    assert slow == [1], "with the newer policy the quick way is open again"


def test_a_token_that_was_revoked_is_refused_in_the_next_call(
    cast: Cast, caller: Client, quick: Served, slow: list[int], sent: Sent
) -> None:
    _unaware(quick)
    assert caller.row
    before = len(sent())
    revoke_token(token=caller.row, operator=cast.operator)
    message = caller.message("tools/call", {"name": "git_log", "arguments": {}})
    response = caller.post(message)
    assert "token_ended" in response.text or response.status_code == 401, response.text
    assert slow == [1]
    assert len(sent()) == before


def test_the_end_of_a_grant_is_kept_to_the_instant(
    cast: Cast, caller: Client, quick: Served, slow: list[int], clock: Clock, sent: Sent
) -> None:
    grant = cast.grant("git_commit", seconds=600)
    assert "content" in caller.call("git_commit")
    _unaware(quick)
    before = len(sent())
    del slow[:]
    # The clock of the database runs ahead of what this process thinks that it is.
    clock.shift(601)
    assert caller.refusal("git_commit") == "expired"
    assert len(sent()) == before
    assert slow == [1]
    late = [entry for entry in ledger("call.authorized") if entry.grant == grant.pk and entry.at >= _end(grant)]
    assert late == []


def _end(grant: Grant) -> datetime:
    grant.refresh_from_db()
    return grant.expires_at


def test_refusals_and_counted_uses_take_the_other_way(cast: Cast, caller: Client, slow: list[int]) -> None:
    assert caller.refusal("git_commit") == "no_binding"
    binding = cast.limited(1)
    assert "content" in caller.call("git_commit")
    assert caller.refusal("git_commit") == "used_up"
    assert slow == [1, 1, 1]
    uses = [entry for entry in ledger("call.authorized") if str(binding.pk) in entry.bindings]
    assert len(uses) == 1


def test_while_its_session_is_gone_the_other_way_is_taken_and_then_it_has_a_new_one(
    caller: Client, quick: Served, slow: list[int]
) -> None:
    assert _sessions("WITH %") == 1
    assert eventually(lambda: not _lane(quick).open, within=5)
    assert "content" in caller.call("git_log")
    assert slow == [1]
    assert eventually(lambda: _lane(quick).open, within=5)
    assert "content" in caller.call("git_log")
    assert slow == [1]
    assert eventually(settled)


def test_a_call_of_which_nobody_knows_whether_it_is_on_record_is_not_made(
    caller: Client, quick: Served, slow: list[int], sent: Sent
) -> None:
    before = len(sent())
    with ledger_held():
        with caller.begin("git_log") as plain:
            assert eventually(lambda: _waits() == 1)
            assert _sessions("WITH head%") == 1
            assert b'"unavailable"' in plain.recv(65536)
    assert len(sent()) == before
    assert eventually(settled)
    assert slow == []


def test_a_database_that_says_nothing_is_not_waited_for(
    caller: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(admission, "COMMIT_SECONDS", 1.5)
    before = len(sent())
    with ledger_held():
        assert caller.refusal("git_log") == "unavailable"
    assert len(sent()) == before
    # What was under way is on record now; its end says that nothing was sent.
    assert eventually(settled)
    assert told()[-2:] == ["call.authorized", "call.not_sent"] or len(ledger("call.authorized")) == 1


def _waits() -> int:
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        found = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
        return int(found[0]) if found else 0


def test_what_the_database_refuses_is_tried_again_by_itself(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    good = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})
    twice = ledger("call.authorized")[0].call
    assert twice
    OpenCall.objects.create(call=twice, instance=quick.gateway.instance)
    bad = structs.replace(good, call=twice)

    async def both() -> list[Any]:
        admit = quick.gateway.admission.admit
        return await asyncio.gather(admit(good), admit(bad), return_exceptions=True)

    allowed, refused = quick.run(both())
    assert allowed.allowed
    assert isinstance(refused, Exception)
    assert sorted(slow) == [1, 1, 2]
    quick.run(_not_sent(quick, allowed))
    assert eventually(lambda: not OpenCall.objects.filter(call=good.call).exists())


async def _not_sent(served: Served, admitted: Any) -> None:
    served.gateway.admission.not_sent(admitted, "a test")


def test_of_two_ends_of_a_call_one_is_on_record(cast: Cast, caller: Client, quick: Served) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)

    async def work() -> UUID:
        admitted = await quick.gateway.admission.admit(
            Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})
        )
        quick.gateway.admission.not_sent(admitted, "first")
        quick.gateway.admission.not_sent(admitted, "second")
        await asyncio.sleep(0.05)
        quick.gateway.admission.not_sent(admitted, "third")
        return admitted.intent.call

    call = quick.run(work())
    assert eventually(settled)
    assert Entry.objects.filter(call=call).exclude(event="call.authorized").count() == 1


def test_an_end_counts_that_is_not_in_the_table_of_entries_yet(cast: Cast, caller: Client, quick: Served) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    intent = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})
    admitted = quick.run(quick.gateway.admission.admit(intent))
    enter_all()
    quick.run(_not_sent(quick, admitted))
    assert eventually(lambda: not OpenCall.objects.exists())
    assert Bundle.objects.exists()
    quick.run(_not_sent(quick, admitted))
    assert caller.refusal("git_commit") == "no_binding", "which is said behind it"

    def recorded() -> list[str]:
        return [one.event for one in ledger(call=admitted.intent.call)]

    # What looks for the second one's call may be entering the bundle of the first just now.
    assert eventually(lambda: recorded() == ["call.authorized", "call.not_sent"])
    assert eventually(settled)
    assert recorded() == ["call.authorized", "call.not_sent"]


def test_an_end_that_comes_twice_keeps_no_call_of_its_packet_from_being_made(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    intent = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})
    first = quick.run(quick.gateway.admission.admit(intent))
    quick.run(_not_sent(quick, first))
    assert eventually(lambda: not OpenCall.objects.exists())

    async def both() -> Any:
        quick.gateway.admission.not_sent(first, "a test")
        return await quick.gateway.admission.admit(structs.replace(intent, call=uuid7()))

    second = quick.run(both())
    assert second.allowed
    assert slow == [1]
    quick.run(_not_sent(quick, second))
    assert eventually(settled)


def test_calls_and_ends_of_a_packet_are_one_row_until_somebody_enters_them(caller: Client, slow: list[int]) -> None:
    enter_all()
    for _ in range(3):
        assert "content" in caller.call("git_log")
    assert eventually(lambda: not OpenCall.objects.exists())
    assert sum(Bundle.objects.values_list("n", flat=True)) == 6
    begun = Entry.objects.count()
    assert begun >= 6, "whoever asks has them entered"
    assert not Bundle.objects.exists()
    assert slow == []


def test_after_an_error_of_the_database_the_quick_way_is_as_quick_as_before(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    twice = ledger("call.authorized")[0].call
    assert twice
    OpenCall.objects.create(call=twice, instance=quick.gateway.instance)

    async def fails() -> Any:
        bad = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {}, call=twice)
        return await asyncio.gather(quick.gateway.admission.admit(bad), return_exceptions=True)

    assert isinstance(quick.run(fails())[0], Exception)
    OpenCall.objects.all().delete()
    del slow[:]
    for _ in range(3):
        assert "content" in caller.call("git_log")
    assert slow == []


def test_ends_that_come_while_a_packet_is_long_under_way_are_written_after_it(
    cast: Cast, caller: Client, quick: Served
) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    intent = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})

    async def work() -> None:
        quick.gateway.admission.not_sent(await quick.gateway.admission.admit(intent), "a test")

    admitted = quick.run(quick.gateway.admission.admit(structs.replace(intent, call=uuid7())))
    with ledger_held():
        quick.run(_not_sent(quick, admitted))
        assert eventually(lambda: _waits() == 1)
        second = asyncio.run_coroutine_threadsafe(work(), quick.loop)
        assert eventually(lambda: _lane(quick)._waiting)
    second.result(20)
    assert eventually(settled)


def test_more_calls_than_a_packet_takes_are_all_answered_whoever_does_it(
    cast: Cast, caller: Client, quick: Served, slow: list[int]
) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    refused = [Intent(principal, cast.server.pk, "git", "git_commit", "sha256:x", {}) for _ in range(600)]

    async def all_of_them() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*map(quick.gateway.admission.admit, refused)), 25)

    assert not any(one.allowed for one in quick.run(all_of_them()))
    assert sum(slow) == 600


def test_a_verdict_that_asks_for_the_time_is_not_used_a_moment_later(cast: Cast, caller: Client, quick: Served) -> None:
    assert caller.row
    principal = cast.principal(token_hash=caller.row.hash)
    snapshot = quick.gateway.store.current
    at = now()
    timed = replace(cast.verdict("git_log"), since=at, until=at + timedelta(seconds=1))
    intent = Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {})
    for verdict, used in ((timed, False), (replace(timed, since=at - timedelta(hours=1)), True)):
        batch = packet.Batch(snapshot, at + timedelta(milliseconds=5), 0.0, quick.gateway.instance)
        waiting = Waiting(structs.replace(intent, guess=Guess(snapshot, verdict, at)), quick.loop.create_future())
        assert batch.take(waiting)
        assert (batch._verdicts == [verdict]) is used


def test_a_process_whose_lease_is_over_in_the_database_lets_nothing_through(
    caller: Client, quick: Served, slow: list[int], sent: Sent
) -> None:
    end_lease(quick.gateway.instance)
    begun = len(ledger("call.authorized"))
    caller.call("git_log")
    assert slow == [1], "the quick way wrote nothing"
    assert len(ledger("call.authorized")) == begun + 1
