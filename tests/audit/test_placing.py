"""One step of the sequencer: what it hashes, what it leaves alone, and what it asks of the database."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.audit import log, sequencer, tree
from jitaccess.audit.models import Entry, Leaf, Node, Unsequenced
from jitaccess.audit.sequencer import leaf_hash, sequence
from jitaccess.kernel.canonical import canonical
from tests.installation import eventually
from tests.races import race

# Every text that both databases hold: no NUL, no half of a pair.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=64)
NASTY = st.sampled_from(
    ["\\", '"', '\\"', "\\u0000", "\b\t\n\v\f\r\x1f\x7f", "\x80\u2028\ufeff\uffff", "🔑\U0010ffff", "null", "'||'"]
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - they are bounds
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "UUIDField": st.uuids(),
    "DateTimeField": TIMES | TIMES.map(lambda at: at.replace(microsecond=0)),
    "BigIntegerField": st.integers(-(2**53) + 1, 2**53 - 1),
}


def column(field: Any) -> st.SearchStrategy[Any]:
    texts = (TEXTS | NASTY).map(lambda text: text[: field.max_length])
    value = VALUES.get(field.get_internal_type(), texts)
    return st.none() | value if field.null else value


COLUMNS = {field.attname: column(field) for field in Entry._meta.concrete_fields}
EMPTY = {field.attname: st.none() if field.null else COLUMNS[field.attname] for field in Entry._meta.concrete_fields}


def entry(number: int = 0) -> Entry:
    return Entry.objects.create(uid=UUID(int=number), at=datetime.now(UTC), event="x") if number else entry(uuid4().int)


@given(rows=st.lists(st.fixed_dictionaries(COLUMNS) | st.fixed_dictionaries(EMPTY), min_size=1, max_size=4))
@settings(max_examples=100)
@pytest.mark.django_db
def test_what_is_stored_is_the_hash_of_the_canonical_form_whatever_an_entry_holds(rows: list[dict[str, Any]]) -> None:
    uids = [Entry.objects.create(**row | {"uid": uuid4()}).pk for row in rows]
    assert sequence() == len(rows)
    for leaf in Leaf.objects.filter(entry__in=uids).select_related("entry"):
        assert leaf.leaf_hash == leaf_hash(leaf.entry), leaf.entry.__dict__
    assert Leaf.objects.filter(entry__in=uids).count() == len(rows)


@pytest.mark.postgresql_only
@pytest.mark.django_db
def test_postgresql_escapes_each_character_as_canonical_json_does() -> None:
    every = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_json(%s::text)::text", [every])
        escaped = cursor.fetchone()[0]
    assert escaped.encode() == canonical(every)
    # RFC 8785 section 3.2.2.2, written down once more.
    short = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r"}
    low = "".join(short.get(code, f"\\u{code:04x}") for code in range(1, 0x20))
    rest = every[0x1F:].replace("\\", "\\\\").replace('"', '\\"')
    assert escaped == f'"{low}{rest}"'


@pytest.mark.django_db
def test_the_order_is_that_of_the_ids() -> None:
    for number in (5, 3, 4, 1, 2):
        entry(number)
    assert [sequence(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [uid.int for uid in Leaf.objects.order_by("seq").values_list("entry_id", flat=True)] == [1, 2, 3, 4, 5]


@pytest.mark.django_db
def test_an_entry_that_is_queued_again_keeps_its_one_place() -> None:
    first = entry(1)
    assert sequence() == 1
    entry(2)
    Unsequenced.objects.create(entry=first)
    assert sequence() == 2
    assert list(Leaf.objects.order_by("seq").values_list("seq", "entry_id")) == [(1, UUID(int=1)), (2, UUID(int=2))]
    Unsequenced.objects.create(entry=first)
    assert sequence() == 1, "nothing new came with it"
    assert not Unsequenced.objects.exists()
    assert Leaf.objects.count() == 2


@pytest.mark.django_db
def test_what_waits_and_is_not_there_goes_on_waiting_and_stops_nobody() -> None:
    Unsequenced.objects.create(entry_id=UUID(int=2))
    entry(1)
    entry(3)
    assert sequence() == 2
    assert [one.entry_id.int for one in Unsequenced.objects.all()] == [2]
    assert [leaf.seq for leaf in Leaf.objects.order_by("seq")] == [1, 2]
    assert sequence() == 0


@pytest.mark.django_db
def test_what_comes_late_is_found_by_whoever_looks_at_the_whole_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a process whose clock is behind. Those who do not look there find what is new."""
    hour = 3_600_000 << 80  # of a UUIDv7
    for number in (8 * hour, 8 * hour + 1):
        entry(number)
    queue = sequencer._Queue()
    monkeypatch.setattr(queue, "WHOLE_SECONDS", 600)
    monkeypatch.setattr(sequencer, "_queue", queue)
    assert sequence(whole=False) == 2, "the first look is at all of it"
    entry(7 * hour)
    entry(8 * hour + 2)
    found = sequence(whole=False)
    assert found == (1 if connection.vendor == "postgresql" else 2)
    assert found + sequence() == 2
    assert {8 * hour + 2, 7 * hour} <= {uid.int for uid in Leaf.objects.values_list("entry_id", flat=True)}
    entry(7 * hour + 1)
    assert sequence(whole=False) == 1, "where the last one was found, others may come"
    assert not Unsequenced.objects.exists()


@pytest.mark.django_db
def test_nodes_are_of_the_hashes_in_their_order() -> None:
    Entry.objects.bulk_create(Entry(at=datetime.now(UTC), event="x", tool=str(number)) for number in range(700))
    while sequence(limit=300):
        pass
    hashes = [bytes.fromhex(text) for text in Leaf.objects.order_by("seq").values_list("leaf_hash", flat=True)]
    roots = [tree.root(tree.nodes_of(hashes[at : at + 256]), 256).hex() for at in (0, 256)]
    assert list(Node.objects.order_by("index").values_list("hash", flat=True)) == roots


@pytest.mark.django_db(transaction=True)
def test_nodes_are_right_whoever_placed_what_came_before_and_whatever_was_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a process remembers of the last tile may be of a state that never came, or that others have left behind."""
    made = [Entry(at=datetime.now(UTC), event="x", tool=str(number)) for number in range(2000)]
    Entry.objects.bulk_create(made)
    processes, chosen = [log.Growth() for _ in range(3)], random.Random(7)
    placed = 0
    while placed < 2000:
        monkeypatch.setattr(sequencer, "_growth", chosen.choice(processes))
        limit = chosen.choice((1, 40, 256, 300, 513))
        if chosen.random() < 0.3:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                sequence(limit=limit)
                raise ZeroDivisionError
            # Others come next, in another order than they would have had.
            first = Unsequenced.objects.order_by("pk").values_list("pk", flat=True).first()
            Unsequenced.objects.filter(pk=first).delete()
            sequence(limit=limit)
            Unsequenced.objects.create(entry_id=first)
        else:
            sequence(limit=limit)
        placed = Leaf.objects.count()
    hashes = [bytes.fromhex(text) for text in Leaf.objects.order_by("seq").values_list("leaf_hash", flat=True)]
    roots = [tree.root(tree.nodes_of(hashes[at : at + 256]), 256).hex() for at in range(0, 2000 - 255, 256)]
    assert list(Node.objects.order_by("index").values_list("hash", flat=True)) == roots


@pytest.mark.postgresql_only
@pytest.mark.django_db
def test_only_what_is_placed_is_read_even_when_the_planner_believes_the_tables_small() -> None:
    """What it planned for small tables it would go on with while they grow."""

    def read() -> dict[str, tuple[int, int]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables")
            return {name: (through, fetched) for name, through, fetched in cursor if name.startswith("jit_audit_")}

    Entry.objects.bulk_create(Entry(uid=uuid4(), at=datetime.now(UTC), event="x") for _ in range(300))
    sequence(limit=200)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jit_audit_entry, jit_audit_leaf, jit_audit_unsequenced")
        cursor.execute("SET LOCAL enable_seqscan = on")
    before = read()
    assert sequence(limit=100) == 100
    after = read()
    assert {name: after[name][0] - before[name][0] for name in before} == dict.fromkeys(before, 0)
    assert after["jit_audit_entry"][1] - before["jit_audit_entry"][1] == 100


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_who_comes_second_waits_for_the_number_and_gives_way() -> None:
    """Without a deadlock, also where the first is of the release before, which writes and forgets in two statements."""
    for number in range(1, 9):
        entry(number)
    written = threading.Event()

    def first() -> None:
        uids = [UUID(int=number) for number in range(1, 6)]
        with transaction.atomic():
            Leaf.objects.bulk_create(Leaf(seq=uid.int, entry_id=uid, leaf_hash="00" * 32) for uid in uids)
            written.set()
            eventually(waits_for_another, what="the second waits")
            Unsequenced.objects.filter(entry__in=uids).delete()

    def second() -> None:
        assert written.wait(10)
        with pytest.raises(IntegrityError):
            sequence(limit=8)

    race(first, second)
    assert sequence() == 3
    assert list(Leaf.objects.order_by("seq").values_list("seq", flat=True)) == list(range(1, 9))


def waits_for_another() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        return bool(cursor.fetchone()[0])
