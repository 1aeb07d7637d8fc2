"""The ledger: written with its change or not at all, and never changed again, whoever asks the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, Leaf, Unsequenced
from jitaccess.audit.recorder import Actor, Facts, record, record_many
from jitaccess.audit.sequencer import sequence

ACTOR = Actor(agent=uuid4(), agent_name="demo-agent", user_name="olga", client="tests", source="127.0.0.1")


def facts(**changes: object) -> Facts:
    values: dict[str, object] = {"event": Event.CALL_AUTHORIZED, "actor": ACTOR}
    return Facts(**(values | changes))  # type: ignore[arg-type]


def written(**changes: object) -> Entry:
    with transaction.atomic():
        return Entry.objects.get(pk=record(facts(**changes)))


@pytest.mark.django_db(transaction=True)
def test_the_ledger_is_written_inside_a_transaction_only() -> None:
    with pytest.raises(RuntimeError, match="inside the transaction"):
        record(facts())
    assert not Entry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_leaves_no_entry_and_nothing_to_sequence() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record(facts())
        _ = 1 / 0
    assert not Entry.objects.exists()
    assert not Unsequenced.objects.exists()
    assert sequence() == 0


@pytest.mark.django_db
def test_an_entry_keeps_what_it_was_given() -> None:
    ids = [uuid4() for _ in range(3)]
    entry = written(
        outcome=Outcome.ALLOWED, request=ids[0], bindings=ids[1:], policy_version=7, data={"b": 1, "a": [None]}
    )
    assert (entry.event, entry.outcome, entry.agent, entry.agent_name) == (
        "call.authorized",
        "allowed",
        ACTOR.agent,
        "demo-agent",
    )
    assert entry.request == ids[0]
    assert json.loads(entry.bindings) == [str(uid) for uid in ids[1:]]
    assert entry.data == '{"a":[null],"b":1}'
    assert entry.at is not None


@pytest.mark.django_db
def test_many_entries_keep_their_order() -> None:
    with transaction.atomic():
        uids = record_many(facts(tool=str(number)) for number in range(20))
    assert uids == sorted(uids)
    assert list(Entry.objects.order_by("uid").values_list("tool", flat=True)) == [str(number) for number in range(20)]


@pytest.mark.django_db
def test_hostile_text_is_stored_and_inert() -> None:
    nasty = "a\0b\u202ec\x1b[2J" + "x" * 1000
    actor = Actor(agent_name=nasty, user_name=nasty, client=nasty, source=nasty)
    entry = written(actor=actor, tool=nasty, server_name=nasty, data={"argument": "\0'; DROP TABLE x; --", "n\0": 1})
    for text in (entry.agent_name, entry.user_name, entry.client, entry.source, entry.tool, entry.server_name):
        assert text.startswith("a\\u{0}b\\u{202e}c\\u{1b}[2J")
        assert text.endswith("…")
    assert "\0" not in entry.data
    assert json.loads(entry.data) == {"argument": "\0'; DROP TABLE x; --", "n\0": 1}


EVERYWHERE = [
    "UPDATE jit_audit_entry SET user_name = 'mallory'",
    "UPDATE jit_audit_entry SET uid = uid",
    "DELETE FROM jit_audit_entry",
    "UPDATE jit_audit_leaf SET leaf_hash = 'x'",
    "UPDATE jit_audit_leaf SET seq = seq + 1",
    "DELETE FROM jit_audit_leaf",
]
POSTGRESQL = [
    "TRUNCATE jit_audit_entry CASCADE",
    "TRUNCATE jit_audit_leaf",
    "INSERT INTO jit_audit_entry SELECT * FROM jit_audit_entry ON CONFLICT (uid) DO UPDATE SET user_name = 'mallory'",
]
SQLITE = [
    "INSERT OR REPLACE INTO jit_audit_entry SELECT * FROM jit_audit_entry",
    "REPLACE INTO jit_audit_leaf SELECT * FROM jit_audit_leaf",
    "INSERT OR REPLACE INTO jit_audit_leaf (rowid, seq, entry_id, leaf_hash) SELECT seq, seq, 'x', 'x' FROM jit_audit_leaf",
    "UPDATE OR REPLACE jit_audit_entry SET user_name = 'mallory'",
    "INSERT INTO jit_audit_entry SELECT * FROM jit_audit_entry WHERE true "
    "ON CONFLICT (uid) DO UPDATE SET user_name = 'mallory'",
]


def _attack(statement: str) -> None:
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.django_db
def test_the_database_refuses_every_change_of_the_ledger(postgresql: bool) -> None:
    written(data={"kept": True})
    written()
    assert sequence() == 2
    before = (list(Entry.objects.values()), list(Leaf.objects.values()))
    for statement in EVERYWHERE + (POSTGRESQL if postgresql else SQLITE):
        _attack(statement)
        assert (list(Entry.objects.values()), list(Leaf.objects.values())) == before, statement


@pytest.mark.django_db
def test_replacing_by_rowid_is_refused_on_a_connection_that_never_heard_of_us(postgresql: bool) -> None:
    """recursive_triggers is off in other programs: then REPLACE deletes without firing DELETE triggers."""
    uid = written(data={"kept": True}).uid
    if postgresql:  # has neither rowids nor REPLACE; the nearest thing
        _attack("WITH gone AS (DELETE FROM jit_audit_entry RETURNING *) INSERT INTO jit_audit_entry SELECT * FROM gone")
        assert Entry.objects.get().uid == uid
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA recursive_triggers=OFF")
        try:
            columns = ", ".join(f'"{field.column}"' for field in Entry._meta.concrete_fields if field.column != "uid")
            _attack(
                f'INSERT OR REPLACE INTO jit_audit_entry (rowid, "uid", {columns}) '
                f"SELECT rowid, '{uuid4().hex}', {columns} FROM jit_audit_entry"
            )
            _attack("INSERT OR REPLACE INTO jit_audit_entry SELECT * FROM jit_audit_entry")
        finally:
            cursor.execute("PRAGMA recursive_triggers=ON")
    assert Entry.objects.get().uid == uid


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: Entry.objects.update(tool="x"),
        lambda entry: entry.delete(),
        lambda entry: entry.save(),
        lambda entry: Entry.objects.all().delete(),
    ],
)
@pytest.mark.django_db
def test_so_does_django(change: Callable[[Entry], object]) -> None:
    entry = written()
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        change(entry)
    assert Entry.objects.get().tool == ""


@pytest.mark.django_db
def test_two_entries_cannot_share_a_place_or_an_id() -> None:
    entry = written()
    sequence()
    with pytest.raises(IntegrityError), transaction.atomic():
        Leaf.objects.create(seq=2, entry=entry, leaf_hash="x")
    with pytest.raises(IntegrityError), transaction.atomic():
        Entry.objects.create(uid=entry.uid, at=entry.at, event="x")
    assert isinstance(entry.uid, UUID)
