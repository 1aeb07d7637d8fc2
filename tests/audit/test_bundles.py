"""Entries that come in bundles: they are the same entries, in the same order, and nobody takes one away."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.audit.bundles import bundled, unbundle, unbundle_left, waiting
from jitaccess.audit.models import Bundle, Entry, Leaf, Unsequenced
from jitaccess.audit.recorder import Row, write_rows
from jitaccess.audit.sequencer import behind, leaf_hash, sequence
from jitaccess.kernel.ids import uuid7
from tests.audit.test_placing import COLUMNS, EMPTY

pytestmark = pytest.mark.postgresql_only

AT = datetime(2026, 11, 20, 8, 30, 15, 123456, tzinfo=UTC)
FIELDS = [field.attname for field in Entry._meta.concrete_fields]


def row(values: dict[str, Any]) -> Row:
    """As the recorder makes it."""
    return tuple(value.hex if isinstance(value, UUID) else value for value in (values[name] for name in FIELDS))


def bundle(rows: list[Row], at: datetime = AT) -> None:
    Bundle.objects.create(id=UUID(str(rows[0][0])), at=at, n=len(rows), body=bundled(rows))


def entries(uids: list[UUID]) -> list[Entry]:
    return list(Entry.objects.filter(pk__in=uids).order_by("pk"))


def some(count: int, *, event: str = "call.authorized") -> list[Row]:
    return [row(PLAIN | {"uid": uuid7(), "event": event}) for _ in range(count)]


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
    unbundle()
    came, written = entries([UUID(str(one[0])) for one in first]), entries([UUID(str(one[0])) for one in again])
    assert len(came) == len(written) == len(many)
    for one, other in zip(came, written, strict=True):
        assert [getattr(one, name) for name in FIELDS[1:]] == [getattr(other, name) for name in FIELDS[1:]]


@pytest.mark.parametrize("hostile", ["a\tb", "a\nb", "\t", "\n", "x\n" + "\t" * 20])
def test_a_value_that_could_be_read_as_another_one_makes_no_bundle(hostile: str) -> None:
    assert bundled(some(2)).count("\n") == 1
    for name in ("tool", "data", "agent_name", "bindings"):
        with pytest.raises(ValueError, match="tabulator"):
            bundled([row(PLAIN | {"uid": uuid7(), "event": "x", name: hostile})])


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
    bundle(some(1), at=datetime.now(UTC) - timedelta(minutes=2))
    fresh = some(1)
    bundle(fresh, at=datetime.now(UTC) + timedelta(minutes=2))
    # As a sequencer that stands still.
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("BEGIN")
        other.execute("SELECT FROM jit_audit_bundle WHERE at < now() FOR UPDATE")
        unbundle_left(timedelta(seconds=30))
        assert Bundle.objects.count() == 2
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        with pytest.raises(DatabaseError, match="lock timeout"):
            unbundle()
        other.execute("ROLLBACK")
    unbundle_left(timedelta(seconds=30))
    assert [one.pk.hex for one in Bundle.objects.all()] == [fresh[0][0]], "it came just now"
    unbundle()
    assert not Bundle.objects.exists()
    assert sequence() == 2


@pytest.mark.django_db
def test_it_is_known_how_long_the_first_has_waited() -> None:
    with transaction.atomic():
        write_rows(some(1))
    sequence()
    assert 0 <= behind() < 30
    assert sequence() == 0
    assert behind() == 0
