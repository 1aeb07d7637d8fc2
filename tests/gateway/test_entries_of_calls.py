"""What the batch writer puts on record by hand is what anybody else's entry of the same facts would be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, transaction
from msgspec import structs

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.recorder import Facts, record
from jitaccess.audit.sequencer import leaf_hash, sequence
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording.batch import admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.endings import write_endings
from jitaccess.gateway.recording.facts import Admitted, Ending, Intent
from jitaccess.gateway.recording.instances import register_instance
from jitaccess.identity.services import authenticate, issue_token
from jitaccess.policy.engine.decide import Kind
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.host_clock import steady
from tests.cast import Cast
from tests.gateway.harness import Client, Served, data, eventually, ledger, told

pytestmark = pytest.mark.django_db(transaction=True)
NASTY = 'a"b\\c\0d\u202e{},NULL\x1f✓'


def columns(uid: UUID, *but: str) -> dict[str, Any]:
    (row,) = Entry.objects.filter(pk=uid).values()
    return {name: value for name, value in row.items() if name not in {"uid", *but}}


def written_otherwise(entry: Entry, actor: Any, bindings: tuple[UUID, ...]) -> UUID:
    with transaction.atomic():
        return record(
            Facts(
                event=Event(entry.event), outcome=Outcome(entry.outcome), actor=actor, at=entry.at, grant=entry.grant,
                call=entry.call, server=entry.server, server_name=NASTY, tool=NASTY, tool_pin=entry.tool_pin,
                bindings=bindings, policy_version=entry.policy_version, instance=entry.instance, data=data(entry),
            )
        )  # fmt: skip


def test_entries_of_calls_are_as_the_recorder_writes_them(cast: Cast) -> None:
    value, _ = issue_token(agent=cast.agent, ttl=600, operator=cast.operator)
    principal = replace(authenticate(value), client=NASTY, agent_name=NASTY, source="::1")
    store, instance = SnapshotStore(), register_instance()
    given = {NASTY: [NASTY, 1, None]}
    intents = [
        Intent(principal, cast.server.pk, NASTY, NASTY, "sha256:x", given, given=given),
        Intent(principal, cast.server.pk, NASTY, NASTY, "sha256:y", given, given=given, kind=Kind.PROMPT),
        Intent(principal, cast.server.pk, "git", "git_log", "sha256:z", given, given=given),
    ]
    answers = admit_batch(
        intents, store=store, instance=instance, guard=ClockGuard(), lease_until=lambda: steady() + 60
    )
    assert [answer.allowed for answer in answers] == [False, False, True]
    ended = structs.replace(answers[2], intent=structs.replace(intents[2], server_name=NASTY, tool=NASTY))
    write_endings([Ending(ended, Event.CALL_COMPLETED, Outcome.ALLOWED, {NASTY: NASTY})], instance=instance)
    for entry in ledger():
        bindings = answers[2].verdict.bindings if entry.event == "call.authorized" else ()
        again = written_otherwise(entry, principal.actor(), bindings)
        but = ("server_name", "tool") if entry.event == "call.authorized" else ()
        assert columns(entry.uid, *but) == columns(again, *but), entry.event
    assert not OpenCall.objects.exists()
    while sequence(limit=3):
        pass
    for leaf in Leaf.objects.select_related("entry"):
        assert leaf.leaf_hash == leaf_hash(leaf.entry), leaf.entry


def test_a_call_after_the_connection_was_lost_is_not_refused(
    cast: Cast, gateway: Served, agent: Client, sent: Callable[[], list[dict[str, Any]]], postgresql: bool
) -> None:
    assert "content" in agent.call("git_log")
    if postgresql:
        connection.close()  # of the others, one is the batch writer's
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query = 'COMMIT' AND pid <> pg_backend_pid()"
            )
    assert "content" in agent.call("git_log")
    assert len(sent()) == 2


def test_an_end_waits_for_a_call_but_not_for_long(cast: Cast, gateway: Served, agent: Client) -> None:
    admission = gateway.gateway.admission
    assert agent.row
    principal = cast.principal(token_hash=agent.row.hash)

    async def one() -> Admitted:
        admitted = await admission.admit(Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {}))
        admission.finish(admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, {})
        return admitted

    gateway.run(one())
    assert eventually(lambda: told() == ["call.authorized", "call.completed"], within=5)
    gateway.run(one())
    gateway.run(one())
    assert eventually(lambda: not OpenCall.objects.exists(), within=5)
    assert told().count("call.completed") == 3
