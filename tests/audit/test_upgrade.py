"""The leaf's foreign key goes from a database at work: nobody who writes waits longer than a moment behind it."""

from __future__ import annotations

import threading
from importlib import import_module

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import ProtectedError

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.sequencer import sequence
from tests.audit.behind import run
from tests.installation import eventually
from tests.races import race

migration = import_module("jitaccess.audit.migrations.0005_leaves_without_key")
KEY = "ALTER TABLE jit_audit_leaf ADD CONSTRAINT {} FOREIGN KEY (entry_id) REFERENCES jit_audit_entry DEFERRABLE INITIALLY DEFERRED"

pytestmark = pytest.mark.django_db(transaction=True)


def write() -> None:
    with transaction.atomic():
        record(Facts(event=Event.CALL_COMPLETED, actor=Actor.system("test")))


def keys() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'jit_audit_leaf'::regclass AND contype = 'f'"
        )
        return int(cursor.fetchone()[0])


def drop() -> None:
    with connection.schema_editor(atomic=True) as editor:
        migration.drop(None, editor)


@pytest.fixture
def key() -> None:
    """As the release before had it, under whatever name."""
    run(KEY.format('"an old name"'))()
    assert keys() == 1


@pytest.mark.postgresql_only
def test_a_new_database_has_no_key() -> None:
    assert keys() == 0


@pytest.mark.postgresql_only
def test_the_key_goes_behind_a_reader_and_writers_go_on_meanwhile(key: None) -> None:
    write()
    assert sequence() == 1
    reads, wrote = threading.Event(), threading.Event()

    def reader() -> None:
        with transaction.atomic():
            assert Entry.objects.count()
            reads.set()
            assert wrote.wait(30)

    def upgrade() -> None:
        assert reads.wait(10)
        drop()

    def writer() -> None:
        eventually(asked, what="the upgrade waits for its lock")
        write()
        wrote.set()

    def asked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")
            return bool(cursor.fetchone()[0])

    race(reader, upgrade, writer)
    assert keys() == 0
    assert Entry.objects.count() == 2
    assert sequence() == 1
    drop()  # once more does nothing


@pytest.mark.postgresql_only
def test_it_gives_up_when_readers_leave_no_gap_and_nothing_has_changed(
    key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "TRIES", 1)
    reads, over = threading.Event(), threading.Event()

    def reader() -> None:
        with transaction.atomic():
            assert not Entry.objects.exists()
            reads.set()
            assert over.wait(30)

    def upgrade() -> None:
        assert reads.wait(10)
        try:
            with pytest.raises(OperationalError, match="lock timeout"):
                drop()
        finally:
            over.set()

    race(reader, upgrade)
    assert keys() == 1
    drop()
    assert keys() == 0


def test_an_entry_with_a_place_cannot_be_deleted_through_django_or_behind_it() -> None:
    write()
    sequence()
    entry = Leaf.objects.get().entry
    with pytest.raises(ProtectedError):
        entry.delete()
    with pytest.raises(DatabaseError, match="append-only"):
        run(
            f"DELETE FROM jit_audit_entry WHERE uid = '{entry.pk if connection.vendor == 'postgresql' else entry.pk.hex}'"
        )()
