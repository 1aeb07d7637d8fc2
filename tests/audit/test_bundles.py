"""Entries that come in bundles: they are the same entries, in the same order, and nobody takes one away."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.audit.bundles import about_line, bundled, first_of, unbundle, unbundle_left, waiting
from jitaccess.audit.models import Bundle, Entry, Leaf, Unsequenced
from jitaccess.audit.recorder import Row, write_rows
from jitaccess.audit.sequencer import behind, leaf_hash, sequence
from jitaccess.kernel.ids import uuid7
from tests.audit.test_placing import COLUMNS, EMPTY, waits_for_another
from tests.entered import enter_all
from tests.installation import eventually

pytestmark = pytest.mark.postgresql_only

AT = datetime(2026, 11, 20, 8, 30, 15, 123456, tzinfo=UTC)
NO_BREAKS = dict.fromkeys(map(ord, "\t\n"))
FIELDS = [field.attname for field in Entry._meta.concrete_fields]


def row(values: dict[str, Any]) -> Row:
    """As the recorder makes it."""
    return tuple(value.hex if isinstance(value, UUID) else value for value in (values[name] for name in FIELDS))


def lines(rows: list[Row]) -> list[str]:
    return [about_line(one) for one in rows]  # it is the same for a whole row


def bundle(rows: list[Row], at: datetime = AT) -> None:
    said = lines(rows)
    Bundle.objects.create(id=UUID(first_of(said)), at=at, n=len(rows), body=bundled(said))


def entries(uids: list[UUID]) -> list[Entry]:
    return list(Entry.objects.filter(pk__in=uids).order_by("pk"))


def some(count: int, *, call: UUID | None = None) -> list[Row]:
    return [row(PLAIN | {"uid": uuid7(), "event": "call.authorized", "call": call}) for _ in range(count)]


PLAIN: dict[str, Any] = {
    name: None if field.null or name == "at" else {"bindings": "[]", "data": "{}"}.get(name, "")
    for name, field in zip(FIELDS, Entry._meta.concrete_fields, strict=True)
}
TIDY = st.fixed_dictionaries(COLUMNS) | st.fixed_dictionaries(EMPTY)


@given(many=st.lists(TIDY, min_size=1, max_size=4))
@settings(max_examples=100)
@pytest.mark.django_db
def test_what_comes_of_a_bundle_is_what_would_have_been_written_without_one(many: list[dict[str, Any]]) -> None:
    """Every text that an entry may hold: those with control characters, which none does, are no bundle."""
    plain = [
        {name: "".join(value.split()) if isinstance(value, str) else value for name, value in one.items()}
        for one in many
    ]
    first = [row(one | {"uid": uuid7(), "at": None}) for one in plain]
    again = [(uuid7().hex, AT.isoformat(), *one[2:]) for one in first]
    with transaction.atomic():
        write_rows(again)
    bundle(first)
    enter_all()
    came, written = entries([UUID(str(one[0])) for one in first]), entries([UUID(str(one[0])) for one in again])
    assert len(came) == len(written) == len(many)
    for one, other in zip(came, written, strict=True):
        assert [getattr(one, name) for name in FIELDS[1:]] == [getattr(other, name) for name in FIELDS[1:]]


@pytest.mark.parametrize("hostile", ["a\tb", "a\nb", "\t", "\n", "x\n" + "\t" * 20, "a\0b"])
def test_a_value_that_could_be_read_as_another_one_makes_no_bundle(hostile: str) -> None:
    assert bundled(lines(some(2))).count("\n") == 1
    for name in ("tool", "data", "agent_name", "bindings"):
        with pytest.raises(ValueError, match="tabulator"):
            bundled(lines([row(PLAIN | {"uid": uuid7(), "event": "x", name: hostile})]))


@pytest.mark.django_db
def test_a_bundle_is_changed_by_nobody_and_leaves_as_entries_only() -> None:
    rows = some(3)
    bundle(rows)
    for statement in (
        "UPDATE jit_audit_bundle SET body = 'x'",
        "UPDATE jit_audit_bundle SET n = 0",
        "TRUNCATE jit_audit_bundle",
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    assert not Entry.objects.filter(pk=rows[0][0]).exists()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM jit_audit_bundle")
    assert Entry.objects.filter(pk__in=[one[0] for one in rows]).count() == 3
    assert {entry.at for entry in Entry.objects.filter(pk__in=[one[0] for one in rows])} == {AT}
    assert Unsequenced.objects.count() == 3, "whoever is not the sequencer leaves them to it"
    assert sequence() == 3


@pytest.mark.django_db
def test_what_is_no_entry_keeps_its_bundle_and_says_so() -> None:
    Bundle.objects.create(id=uuid7(), at=AT, n=1, body="\t".join(["no uid"] * len(FIELDS)))
    with pytest.raises(DatabaseError, match="uuid"), transaction.atomic():
        sequence()
    assert Bundle.objects.count() == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.django_db
def test_bundles_and_other_entries_get_their_places_in_the_order_of_their_making(seed: int) -> None:
    chosen = random.Random(seed)
    made = []
    for _ in range(60):
        rows = some(chosen.choice((1, 1, 2, 7, 30)))
        if chosen.random() < 0.5:
            bundle(rows)
        else:
            with transaction.atomic():
                write_rows(rows)
        made += [UUID(str(one[0])) for one in rows]
    limit = chosen.choice((3, 8, 20, 64, 1000))
    while placed := sequence(limit=limit):
        assert placed < 2 * limit + 30
    assert list(Leaf.objects.order_by("seq").values_list("entry_id", flat=True)) == made
    assert list(Leaf.objects.order_by("seq").values_list("seq", flat=True)) == list(range(1, len(made) + 1))
    for leaf in Leaf.objects.select_related("entry"):
        assert leaf.leaf_hash == leaf_hash(leaf.entry)
    assert not Bundle.objects.exists()
    assert not Unsequenced.objects.exists()


@pytest.mark.django_db
def test_what_the_sequencer_enters_is_not_queued_and_what_is_written_after_it_is() -> None:
    bundle(some(4))
    assert waiting() == (4, AT)
    assert sequence() == 4
    assert waiting() == (0, None)
    with transaction.atomic():
        write_rows(some(1))
    assert Unsequenced.objects.count() == 1, "in the same transaction"
    assert sequence() == 1


@pytest.mark.django_db(transaction=True)
def test_a_step_that_is_rolled_back_leaves_the_bundle() -> None:
    rows = some(2)
    bundle(rows)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert sequence() == 2
        raise ZeroDivisionError
    assert (Bundle.objects.count(), Leaf.objects.count()) == (1, 0)
    assert sequence() == 2
    assert [str(leaf.entry_id.hex) for leaf in Leaf.objects.order_by("seq")] == [one[0] for one in rows]


@pytest.mark.django_db(transaction=True)
def test_who_needs_an_entry_waits_for_whoever_enters_it_and_who_tidies_up_does_not() -> None:
    call, another = uuid7(), uuid7()
    old, fresh = some(1, call=call), some(1, call=another)
    bundle(old, at=datetime.now(UTC) - timedelta(minutes=2))
    bundle(fresh, at=datetime.now(UTC) + timedelta(minutes=2))
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        # As a sequencer that stands still.
        other.execute("BEGIN")
        other.execute("SELECT FROM jit_audit_bundle WHERE at < now() FOR UPDATE")
        unbundle_left(timedelta(seconds=30))
        assert Bundle.objects.count() == 2
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        unbundle([uuid7()])
        unbundle([])
        with pytest.raises(DatabaseError, match="lock timeout"):
            unbundle([call, another])
        assert Bundle.objects.count() == 2
        other.execute("ROLLBACK")
    unbundle_left(timedelta(seconds=30))
    assert [one.pk.hex for one in Bundle.objects.all()] == [fresh[0][0]], "it came just now"
    unbundle([another])
    assert not Bundle.objects.exists()
    assert sequence() == 2


@pytest.mark.django_db
def test_however_many_bundles_were_left_lying_they_are_entered() -> None:
    for _ in range(230):
        bundle(some(1), at=datetime.now(UTC) - timedelta(minutes=2))
    unbundle_left(timedelta(seconds=30), within=60)
    assert (Bundle.objects.count(), Unsequenced.objects.count()) == (0, 230)
    bundle(some(1), at=datetime.now(UTC) - timedelta(minutes=2))
    unbundle_left(timedelta(seconds=30), within=0)
    assert Bundle.objects.count() == 1, "the next round goes on"


@pytest.mark.django_db
def test_what_the_release_before_does_not_say_is_empty() -> None:
    (said,) = lines(some(1))
    short = said.rpartition("\t")[0]
    Bundle.objects.create(id=UUID(first_of([short])), at=AT, n=1, body=short)
    assert sequence() == 1
    assert Entry.objects.get(pk=UUID(first_of([short]))).data == "{}"


@pytest.mark.django_db
def test_nobody_gets_the_entries_of_a_bundle_into_a_table_of_their_own() -> None:
    """Whoever may connect may make temporary tables and types, which come first where a name has no schema."""
    rows = some(2)
    bundle(rows)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE jit_audit_entry (LIKE public.jit_audit_entry)")
        cursor.execute("CREATE TEMP TABLE jit_audit_unsequenced (LIKE public.jit_audit_unsequenced)")
        cursor.execute("CREATE DOMAIN pg_temp.uuid AS text")
        cursor.execute("CREATE DOMAIN pg_temp.timestamptz AS text")
        cursor.execute("DELETE FROM jit_audit_bundle")
        cursor.execute("DROP TABLE pg_temp.jit_audit_entry, pg_temp.jit_audit_unsequenced")
        cursor.execute("DROP DOMAIN pg_temp.uuid, pg_temp.timestamptz")
    assert Entry.objects.filter(pk__in=[one[0] for one in rows]).count() == 2
    assert Unsequenced.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_bundles_are_locked_in_their_order_wherever_they_stand() -> None:
    """By the sequencer too, or who looks for two calls at that moment and the sequencer could wait for each other."""
    rows = [some(1) for _ in range(40)]
    for one in reversed(rows):  # they stand in the order of their coming
        bundle(one)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jit_audit_bundle")
    first, last = UUID(str(rows[0][0][0])), UUID(str(rows[-1][0][0]))
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("BEGIN")
        other.execute("SELECT FROM jit_audit_bundle WHERE id = %s FOR UPDATE", [first])
        done = threading.Thread(target=_sequence_apart)
        done.start()
        assert eventually(waits_for_another)
        # It waits for the first, and holds no other.
        other.execute("SELECT FROM jit_audit_bundle WHERE id = %s FOR UPDATE NOWAIT", [last])
        other.execute("ROLLBACK")
        done.join(20)
    assert not done.is_alive()
    assert Leaf.objects.count() == 40


def _sequence_apart() -> None:
    try:
        sequence()
    finally:
        connection.close()


@pytest.mark.django_db
def test_it_is_known_how_long_the_first_has_waited() -> None:
    bundle(some(1), at=datetime.now(UTC) - timedelta(seconds=100))
    sequence()
    assert 99 < behind() < 200
    assert sequence() == 0
    assert behind() == 0
