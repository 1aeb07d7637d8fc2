from __future__ import annotations

import hashlib
import json

import pytest
from django.db import IntegrityError, connection, transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Entry, Leaf, Unsequenced
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import advance, leaf_hash, read_after, sequence
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def write(count: int) -> None:
    with transaction.atomic():
        record_many(Facts(event=Event.CALL_COMPLETED, actor=Actor.system("test")) for _ in range(count))


def places() -> list[int]:
    return list(Leaf.objects.order_by("seq").values_list("seq", flat=True))


def test_places_are_contiguous_from_one_in_steps() -> None:
    assert sequence() == 0
    write(7)
    assert [sequence(limit=3) for _ in range(4)] == [3, 3, 1, 0]
    write(2)
    assert sequence() == 2
    assert places() == list(range(1, 10))
    assert not Unsequenced.objects.exists()


def test_two_sequencers_at_once_give_every_entry_one_place() -> None:
    def one() -> int:
        try:
            return sequence(limit=5)
        except IntegrityError:  # the slower one rolls back
            return 0

    for trial in range(1, 16):
        write(8)
        while Unsequenced.objects.exists():
            assert max(race(one, one)) > 0, "one of them gets through"
        assert places() == list(range(1, 8 * trial + 1))
    assert Leaf.objects.count() == Entry.objects.count()


def test_writers_and_a_sequencer_at_once_lose_nothing() -> None:
    for _ in range(10):
        race(lambda: write(3), lambda: write(2), lambda: sequence(limit=2))
    while sequence():
        pass
    assert places() == list(range(1, 51))
    assert Leaf.objects.values("entry").distinct().count() == Entry.objects.count() == 50


def test_the_leaf_hash_is_over_every_field_as_stored() -> None:
    """Written down once more from RFC 6962 section 2.1 and RFC 8785, so that an auditor's own program agrees."""
    write(1)
    sequence()
    leaf = Leaf.objects.select_related("entry").get()
    entry = leaf.entry
    columns = [field.attname for field in Entry._meta.concrete_fields]
    value = {name: getattr(entry, name) for name in columns}
    value = {name: part if part is None or isinstance(part, int) else str(part) for name, part in value.items()}
    value["at"] = entry.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert leaf.leaf_hash == hashlib.sha256(b"\0" + text.encode()).hexdigest() == leaf_hash(entry)
    for name in columns:
        changed = Entry.objects.get()
        setattr(changed, name, changed.at.replace(year=1999) if name == "at" else "changed")
        assert leaf_hash(changed) != leaf.leaf_hash, name


def test_a_reader_sees_each_entry_at_least_once_and_goes_on_where_it_stopped() -> None:
    write(5)
    sequence()
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        cursor, leaves = read_after("mail", limit=3)
        seen += [leaf.seq for leaf in leaves]
        advance(cursor, leaves[-1].seq)
        _ = 1 / 0  # its own work failed: its place is not moved
    for _ in range(3):
        with transaction.atomic():
            cursor, leaves = read_after("mail", limit=3)
            seen += [leaf.seq for leaf in leaves]
            if leaves:
                advance(cursor, leaves[-1].seq)
    assert seen == [1, 2, 3, 1, 2, 3, 4, 5]
    assert Cursor.objects.get(name="mail").seq == 5
    with transaction.atomic():
        assert [leaf.seq for leaf in read_after("another reader")[1]] == [1, 2, 3, 4, 5]


def test_two_readers_of_one_name_do_not_read_the_same() -> None:
    write(40)
    sequence()

    def read() -> list[int]:
        with transaction.atomic():
            cursor, leaves = read_after("mail", limit=4)
            advance(cursor, leaves[-1].seq)
            return [leaf.seq for leaf in leaves]

    with transaction.atomic():
        read_after("mail")  # the cursor exists
    seen = [seq for _ in range(5) for part in race(read, read) for seq in part]
    assert sorted(seen) == list(range(1, 41))


def test_unsequenced_entries_survive_without_a_sequencer() -> None:
    write(3)
    connection.close()
    assert Unsequenced.objects.count() == 3
