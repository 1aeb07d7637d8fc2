"""SQLite: a value that reads the same but is spelled otherwise hides its row from filters, so it is a finding."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path

import pytest
from django.db import connection, transaction

from jitaccess.audit import heads
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.sequencer import sequence
from jitaccess.audit.spelling import misspelled
from tests.audit.behind import run, tampered
from tests.audit.ledgers import Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def on_sqlite(postgresql: bool, ledger: Path) -> bool:
    """PostgreSQL's columns have types: there is one spelling, and nothing to look for."""
    if postgresql:
        assert list(misspelled()) == []
    return not postgresql


DASHES = "substr({0},1,8)||'-'||substr({0},9,4)||'-'||substr({0},13,4)||'-'||substr({0},17,4)||'-'||substr({0},21)"
UUIDS = ("upper({0})", DASHES, "'{{' || {0} || '}}'", "'urn:uuid:' || {0}", "' ' || {0}", "CAST({0} AS BLOB)")
TIMES = (
    "replace({0}, ' ', 'T')",
    "{0} || '000'",
    "{0} || '+00:00'",
    "{0} || 'Z'",
    "substr({0}, 1, 11) || '0' || substr({0}, 12)",
    "' ' || {0}",
    "CAST({0} AS BLOB)",
)


def spellings() -> dict[str, tuple[str, ...]]:
    """Other spellings of each column of an entry whose hash does not cover how it is spelled."""
    kinds = {"UUIDField": UUIDS, "DateTimeField": TIMES}
    return {
        field.column: kinds.get(field.get_internal_type(), ())
        for field in Entry._meta.concrete_fields
        if not field.primary_key
    }


def test_every_other_spelling_in_an_entry_is_found(on_sqlite: bool) -> None:
    if not on_sqlite:
        return
    uid = "(SELECT entry_id FROM jit_audit_leaf WHERE seq = 257)"
    tried = 0
    for column, forms in spellings().items():
        for form in forms:
            change = form.format(f'"{column}"')
            with tampered(run(f'UPDATE jit_audit_entry SET "{column}" = {change} WHERE uid = {uid}')):
                texts = [finding.text for finding in misspelled()]
            assert texts == [f"entry 257 is stored otherwise than it was written (column {column})"], change
            tried += 1
    assert tried == 7 * len(UUIDS) + len(TIMES), "the seven ids of an entry, and its time"
    assert list(misspelled()) == []


def test_every_other_spelling_in_a_leaf_is_found(on_sqlite: bool, audit: Run) -> None:
    if not on_sqlite:
        return
    for column, forms in (("entry_id", UUIDS), ("leaf_hash", ("CAST({0} AS BLOB)",))):
        for form in forms:
            change = form.format(column)
            with tampered(run(f"UPDATE jit_audit_leaf SET {column} = {change} WHERE seq = 257")):
                texts = [finding.text for finding in misspelled()]
            assert texts == [f"entry 257 is stored otherwise than it was written (column {column})"], change
    with tampered(run("UPDATE jit_audit_leaf SET leaf_hash = upper(leaf_hash) WHERE seq = 257")):
        assert "NOT INTACT: the leaf of entry 257 is damaged: it holds no hash" in audit("verify")[1]


def untyped(table: str) -> None:
    """The table with columns that keep whatever type they are given."""
    with connection.cursor() as cursor:
        columns = [row[1] for row in cursor.execute(f"PRAGMA table_info({table})").fetchall()]
        listed = ", ".join(f'"{name}"' for name in columns)
        for statement in (
            f"CREATE TABLE copy ({listed})",
            f"INSERT INTO copy SELECT {listed} FROM {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE copy RENAME TO {table}",
        ):
            cursor.execute(statement)


@pytest.mark.parametrize(
    ("column", "value"), [("policy_version", "'3'"), ("policy_version", "3.0"), ("tool", "CAST(tool AS BLOB)")]
)
def test_a_value_of_another_type_is_found(on_sqlite: bool, column: str, value: str) -> None:
    if not on_sqlite:
        return

    def edit() -> None:
        untyped("jit_audit_entry")
        run(
            f"UPDATE jit_audit_entry SET {column} = {value} "
            "WHERE uid = (SELECT entry_id FROM jit_audit_leaf WHERE seq = 9)"
        )()

    with tampered(edit):
        texts = [finding.text for finding in misspelled()]
    assert texts == [f"entry 9 is stored otherwise than it was written (column {column})"]


def test_everything_at_once_is_one_finding_an_entry_and_the_rest_is_still_checked(on_sqlite: bool, audit: Run) -> None:
    if not on_sqlite:
        return

    def edit() -> None:
        run('UPDATE jit_audit_entry SET "grant" = upper("grant"), at = at || \'Z\', "call" = upper("call")')()
        run("UPDATE jit_audit_entry SET tool = 'x' WHERE uid = (SELECT entry_id FROM jit_audit_leaf WHERE seq = 600)")()

    with tampered(edit):
        code, lines = audit("verify")
    assert code == 1
    assert "NOT INTACT: entry 2 is stored otherwise than it was written (columns at, grant, call)" in lines
    assert any(line.startswith("NOT INTACT: entry 600 was changed") for line in lines), "the list is cut behind this"


def test_whatever_the_product_writes_is_spelled_well(
    db: None, tmp_path: Path, settings: object, audit: Run, postgresql: bool
) -> None:
    """Whole seconds too, and entries that name nothing."""
    settings.CHECKPOINTS, settings.CHECKPOINT_KEYS = tmp_path / "checkpoints", tmp_path / "keys"  # type: ignore[attr-defined]
    moments = [None, *(datetime.fromisoformat(f"2026-01-31T{time}+00:00") for time in ("23:59:59", "00:00:00.000001"))]
    with transaction.atomic():
        for moment in moments:
            record(Facts(event=Event.CONFIGURATION_CHANGED, actor=Actor.system("test"), at=moment))
    sequence()
    if not postgresql:  # jit_now() at a whole second
        with tampered(run("UPDATE jit_audit_entry SET at = at || '.000000' WHERE length(at) = 19")):
            assert list(misspelled()) == []
    assert Leaf.objects.count() == 3
    heads.sign_head()
    assert audit("verify") == (0, ["Intact: 3 entries, all of them signed by 1 checkpoint."])


def test_the_check_is_one_pass_of_sqlite_itself(on_sqlite: bool) -> None:
    """Nothing is read of rows that are good, however many there are."""
    if not on_sqlite:
        return
    connection.ensure_connection()
    raw = connection.connection
    assert isinstance(raw, sqlite3.Connection)
    statements: list[str] = []
    raw.set_trace_callback(statements.append)
    try:
        assert list(misspelled()) == []
    finally:
        raw.set_trace_callback(None)
    assert len(statements) == 2
