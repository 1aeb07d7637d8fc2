"""A signed log of 1,000 entries, attacked at every place in every way, before two verifiers that share no code.

`make nightly` takes all 1,000 places; otherwise an even sample with both ends and the borders of stored nodes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from jitaccess.audit import tree, verify
from jitaccess.audit.checkpoint import Checkpoint, Signer, sign
from jitaccess.audit.verify import Report, Row, check
from jitaccess.kernel.canonical import canonical
from tests.audit.second_verifier import intact

pytestmark = pytest.mark.pure

SIZE = 1000
BORDERS = {0, 1, 2, 254, 255, 256, 257, 510, 511, 512, 513, 766, 767, 768, 769, 997, 998, 999}
NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
PLACES = list(range(SIZE)) if NIGHTLY else sorted(BORDERS | set(range(0, SIZE, 19)))
SIGNER = Signer("jitaccess-test", bytes(range(32)))
Log = list[dict]


def entry(number: int, **changes: object) -> dict:
    """Shaped as the ledger's own."""
    empty = ("agent", "user", "request", "grant", "call", "server", "policy_version", "instance")
    return {
        "uid": str(UUID(int=0x0190 << 112 | 7 << 76 | 2 << 62 | number)),
        "at": f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000001Z",
        "event": "call.authorized",
        "outcome": "allowed",
        **dict.fromkeys(empty),
        "agent_name": f"agent-{number % 7}",
        "user_name": "olga",
        "client": "",
        "source": "127.0.0.1",
        "server_name": "git",
        "tool": "git_log",
        "tool_pin": "sha256:00",
        "bindings": "[]",
        "data": f'{{"number":{number}}}',
    } | changes


LOG = [entry(number) for number in range(SIZE)]
FORK = [entry(number, tool="git_push") for number in range(SIZE + 5)]
# What each of these comes to, worked out once; any other entry that an attack brings in is worked out when it is met.
CANONICAL = {id(one): canonical(one) for one in LOG + FORK}
LEAF = {id(one): tree.leaf_hash(CANONICAL[id(one)]) for one in LOG + FORK}
TEXT = {id(one): json.dumps(one) for one in LOG + FORK}
NODES = tree.nodes_of([LEAF[id(one)] for one in LOG])


def head_of(log: Log) -> Checkpoint:
    return Checkpoint("jitaccess-test/ledger", len(log), tree.root(nodes_of(log), len(log)))


def leaf_of(one: dict) -> bytes:
    return LEAF[id(one)] if id(one) in LEAF else tree.leaf_hash(canonical(one))


def nodes_of(log: Log) -> tree.Nodes:
    return tree.nodes_of([leaf_of(one) for one in log])


HEADS = [Checkpoint("jitaccess-test/ledger", size, tree.root(NODES, size)) for size in (1, 100, 256, 257, 700, SIZE)]
NEWEST = sign(HEADS[-1], [SIGNER])


@pytest.fixture(autouse=True)
def worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "canonical", lambda one: CANONICAL.get(id(one)) or canonical(one))


def export(numbered: list[tuple[int, dict]]) -> str:
    return "".join(f'{{"seq": {seq}, "entry": {TEXT.get(id(one)) or json.dumps(one)}}}\n' for seq, one in numbered)


def skilled(log: Log) -> list[tuple[int, dict]]:
    return list(enumerate(log, start=1))


def ours(log: Log, heads: list[Checkpoint]) -> Report:
    """A database whose owner left no trace: numbers, leaf hashes and nodes fit what is there."""
    nodes = nodes_of(log)
    rows = (Row(seq, one, leaf_of(one).hex()) for seq, one in skilled(log))
    return check(rows, heads, lambda level, index: nodes(level, index).hex())


def assert_found(log: Log, place: int, heads: list[Checkpoint] = HEADS) -> None:
    """Both verifiers, and ours names the first checkpoint that no longer holds and the last that does."""
    report = ours(log, heads)
    assert report.findings, place
    assert not intact(export(skilled(log)), NEWEST, SIGNER.verifier.text), place
    good = [head.size for head in heads if head.size <= place]
    if len(log) >= SIZE and heads is HEADS:
        broken = next(head.size for head in HEADS if head.size > place)
        expected = f"the first {broken} entries are not those that were signed"
        assert report.findings[0].startswith(expected + (f", though the first {good[-1]} are" if good else "")), place


def test_the_log_itself_is_good_and_may_grow() -> None:
    for log in (LOG, [*LOG, *(entry(number) for number in range(SIZE, SIZE + 300))]):
        assert ours(log, HEADS) == Report(len(log), len(HEADS), (), signed=SIZE)
        assert intact(export(skilled(log)), NEWEST, SIGNER.verifier.text)
    other = Signer("jitaccess-test", bytes(32)).verifier.text
    assert not intact(export(skilled(LOG)), NEWEST, other)


def edits(place: int) -> Iterator[Log]:
    yield [*LOG[:place], entry(place, user_name="mallory"), *LOG[place + 1 :]]


def deletions(place: int) -> Iterator[Log]:
    yield [*LOG[:place], *LOG[place + 1 :]]
    yield [*LOG[:place], *LOG[place + 1 :], entry(SIZE)]  # made up for at the end


def insertions(place: int) -> Iterator[Log]:
    yield [*LOG[:place], entry(place, user_name="mallory"), *LOG[place:]]
    yield [*LOG[:place], LOG[(place + SIZE // 2) % SIZE], *LOG[place:]]


def neighbours(place: int) -> Iterator[Log]:
    first = min(place, SIZE - 2)
    yield [*LOG[:first], LOG[first + 1], LOG[first], *LOG[first + 2 :]]


def distant(place: int) -> Iterator[Log]:
    first, second = sorted((place, (place + SIZE // 2) % SIZE))
    log = [*LOG]
    log[first], log[second] = log[second], log[first]
    yield log


ATTACKS = [edits, deletions, insertions, neighbours, distant]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_place_can_be_attacked_even_with_all_hashes_made_anew(attack: Callable[[int], Iterator[Log]]) -> None:
    for place in PLACES:
        for log in attack(place):
            pairs = enumerate(zip(log, LOG, strict=False))
            first = next((number for number, (one, other) in pairs if one is not other), len(log))
            assert_found(log, first)


def test_no_tail_can_be_cut() -> None:
    for place in PLACES:
        assert_found(LOG[:place], place)
        assert ours(LOG[:place], HEADS).findings[-1] == f"{SIZE - place} entries are missing that were signed at {SIZE}"


def test_no_older_log_stands_against_the_newest_checkpoint() -> None:
    """A whole backup put back, with the checkpoints that it knew; somebody outside kept the newest one."""
    for place in PLACES:
        log = LOG[:place]
        heads = [head for head in HEADS if head.size <= place]
        assert ours(log, heads) == Report(
            place, len(heads), (), signed=max((head.size for head in heads), default=0)
        ), "by itself it is good"
        assert_found(log, place, [*heads, HEADS[-1]])
        assert ours(log, [*heads, HEADS[-1]]).findings == (
            f"{SIZE - place} entries are missing that were signed at {SIZE}",
        )


def test_no_tail_can_be_written_anew_even_by_whoever_holds_the_key() -> None:
    """The forger signs the fork too: whoever kept the old checkpoint sees that both cannot be."""
    for place in PLACES:
        fork = LOG[:place] + FORK[place:]
        forged = head_of(fork)
        assert not ours(fork, [forged]).findings, "by itself it is good"
        assert_found(fork, place)
        assert "are not those that were signed" in ours(fork, [HEADS[-1], forged]).findings[0]
        path = tree.consistency_proof(nodes_of(fork), SIZE, forged.size)
        assert not tree.verify_consistency(SIZE, forged.size, HEADS[-1].root, forged.root, path)


def test_an_unskilled_change_is_named_by_its_place() -> None:
    """Only one row is touched: numbers and leaf hashes stay as they were."""
    good = [Row(seq, one, leaf_of(one).hex()) for seq, one in skilled(LOG)]

    def stored(level: int, index: int) -> str:
        return NODES(level, index).hex()

    for place in PLACES:
        seq, forged = place + 1, entry(place, tool="git_push")
        before, after = good[:place], good[place + 1 :]
        edited = [*before, Row(seq, forged, good[place].leaf), *after]
        # The leaf hash tells what the entry was, so that the rest is still seen to be good.
        assert [text[:25] for text in check(edited, HEADS, stored).findings] == [
            f"entry {seq} was changed, or its"[:25]
        ]
        doubled = [*before, good[place], Row(seq, forged, leaf_of(forged).hex()), *after]
        assert check(doubled, HEADS, stored).findings == (f"entry {seq} is there twice, or out of order",)
        if after:
            gap = check([*before, *after], HEADS, stored)
            assert gap.findings[0] == f"entry {seq} is missing"
            # The stored node stands in for the place that is missing, up to the end of the last one.
            assert len(gap.findings) == 1 + any(head.size > place for head in HEADS if head.size < (place | 255) + 1)
        for changed in (edited, doubled, [*before, *after] if after else edited):
            numbered = [(row.seq, row.entry) for row in changed]
            assert not intact(export(numbered), NEWEST, SIGNER.verifier.text)
