"""The tree over real rows, signed heads, and what verification finds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import transaction

from jitaccess.audit import checkpoint, heads, log, tree
from jitaccess.audit.events import Event
from jitaccess.audit.models import Checkpoint, Leaf, Node, Unsequenced
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence
from jitaccess.kernel.errors import Conflict, Invalid
from tests.audit.behind import tampered
from tests.audit.ledgers import Run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def places(tmp_path: Path, settings: object) -> None:
    settings.CHECKPOINTS, settings.CHECKPOINT_KEYS = tmp_path / "checkpoints", tmp_path / "keys"  # type: ignore[attr-defined]


def grow(count: int) -> None:
    with transaction.atomic():
        record_many(
            Facts(event=Event.CONFIGURATION_CHANGED, actor=Actor(user_name=f"admin {number}"))
            for number in range(count)
        )
    while sequence(limit=300):
        pass


def test_the_root_over_stored_nodes_is_the_root_over_all_leaves() -> None:
    grow(700)
    leaves = [bytes.fromhex(text) for text in Leaf.objects.order_by("seq").values_list("leaf_hash", flat=True)]
    assert Node.objects.count() == 2
    for size in (1, 2, 255, 256, 257, 511, 512, 513, 700):
        assert log.root(size) == tree.root(tree.nodes_of(leaves), size)
    nodes = log.nodes()
    proof = tree.inclusion_proof(nodes, 300, 700)
    assert tree.verify_inclusion(leaves[300], 300, 700, proof, log.root(700))
    assert tree.verify_consistency(257, 700, log.root(257), log.root(700), tree.consistency_proof(nodes, 257, 700))


def test_a_head_is_signed_once_and_its_copy_leaves_the_database() -> None:
    grow(5)
    assert heads.sign_head() == 5
    assert heads.sign_head() is None
    grow(2)
    assert heads.sign_head() == 7
    copy = heads.newest_copy()
    assert copy is not None
    assert (copy.size, copy.root) == (7, log.root(7))
    assert sorted(path.name for path in heads.folder().iterdir()) == ["000000000005", "000000000007", "keys", "latest"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in heads.folder().iterdir())


def test_after_a_rotation_both_keys_sign_and_old_heads_still_read() -> None:
    grow(3)
    heads.sign_head()
    old = heads.verifiers()[0]
    new = heads.rotate()
    grow(1)
    heads.sign_head()
    note = (heads.folder() / "latest").read_text()
    assert checkpoint.read(note, [old]).size == checkpoint.read(note, [new]).size == 4
    assert checkpoint.read((heads.folder() / "000000000003").read_text(), heads.verifiers()).size == 3


def test_a_ledger_that_was_cut_is_not_signed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grow(6)
    heads.sign_head()
    monkeypatch.setattr(log, "size", lambda: 4)
    with pytest.raises(Conflict, match="rolled back"):
        heads.sign_head()
    with pytest.raises(Conflict, match="has 4 entries"):
        heads.ensure_grown_from_newest()
    assert Checkpoint.objects.count() == 1


def test_a_tampered_checkpoint_file_is_refused() -> None:
    grow(4)
    heads.sign_head()
    latest = heads.folder() / "latest"
    latest.write_text(latest.read_text().replace("\n4\n", "\n3\n"))
    with pytest.raises(Invalid):
        heads.newest_copy()


def test_taking_latest_away_does_not_make_a_shorter_ledger_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (3, 3):
        grow(count)
        heads.sign_head()
    (heads.folder() / "latest").unlink()
    monkeypatch.setattr(log, "size", lambda: 4)
    with pytest.raises(Conflict, match="has 4 entries"):
        heads.ensure_grown_from_newest()
    shutil.copy(heads.folder() / "000000000003", heads.folder() / "latest")
    with pytest.raises(Conflict, match="has 4 entries"):
        heads.ensure_grown_from_newest()


def test_a_checkpoint_of_another_history_is_evidence_and_never_overwritten() -> None:
    grow(3)
    heads.rotate()
    signer = heads.signers()[0]
    other = checkpoint.Checkpoint(f"{signer.name}/ledger", 4, b"\x07" * 32)
    heads.folder().mkdir(parents=True, exist_ok=True)
    path = heads.folder() / "000000000004"
    path.write_text(checkpoint.sign(other, [signer]))
    grow(1)
    with pytest.raises(Conflict):
        heads.sign_head()
    assert checkpoint.read(path.read_text(), heads.verifiers()) == other


def test_no_new_key_is_made_while_old_checkpoints_are_there() -> None:
    grow(2)
    heads.sign_head()
    settings.CHECKPOINT_KEYS.unlink()
    grow(1)
    with pytest.raises(Invalid, match="Restore them"):
        heads.sign_head()
    assert not settings.CHECKPOINT_KEYS.exists()


def test_an_entry_queued_again_does_not_stop_the_others() -> None:
    grow(3)
    Unsequenced.objects.create(entry_id=Leaf.objects.get(seq=2).entry_id)
    grow(2)
    assert [leaf.seq for leaf in Leaf.objects.order_by("seq")] == [1, 2, 3, 4, 5]
    assert not Unsequenced.objects.exists()


def test_a_damaged_node_is_a_refusal() -> None:
    grow(300)
    heads.sign_head()
    for change in ({"hash": "00" * 32}, {"hash": "damaged"}, {"level": 9}):
        with tampered(lambda change=change: Node.objects.update(**change)):
            grow(1)
            with pytest.raises(Conflict, match="rolled back or changed"):
                heads.ensure_grown_from_newest()
            with pytest.raises(Conflict):
                heads.sign_head()
    assert Checkpoint.objects.count() == 1


def test_looking_makes_no_key_and_compares_with_whatever_key_is_there() -> None:
    assert heads.newest_copy() is None
    heads.ensure_grown_from_newest()
    assert heads.verifiers() == heads.signers() == heads.unknown_published() == []
    assert not settings.CHECKPOINT_KEYS.exists()
    assert not heads.folder().exists()
    grow(3)
    heads.sign_head()
    own = heads.verifiers()
    settings.CHECKPOINT_KEYS.unlink()  # as on a host that has the copies only
    assert heads.verifiers() == own
    heads.ensure_grown_from_newest()
    heads.published().unlink()
    with pytest.raises(Invalid, match="cannot be checked"):
        heads.ensure_grown_from_newest()
    assert not settings.CHECKPOINT_KEYS.exists()


def test_a_host_without_the_keys_does_not_sign_with_a_new_one_until_an_operator_says_so() -> None:
    grow(2)
    heads.sign_head()
    settings.CHECKPOINT_KEYS.unlink()
    shutil.rmtree(heads.folder())
    grow(1)
    with pytest.raises(Invalid, match="Restore them"):
        heads.sign_head()
    assert Checkpoint.objects.count() == 1
    assert not settings.CHECKPOINT_KEYS.exists()
    new = heads.rotate()
    assert heads.sign_head() == 3
    assert checkpoint.read((heads.folder() / "latest").read_text(), [new]).size == 3


def test_a_key_that_somebody_added_to_the_published_ones_is_found() -> None:
    grow(1)
    heads.sign_head()
    assert heads.unknown_published() == []
    forged = checkpoint.Signer.generate("jitaccess-forged").verifier.text
    heads.published().write_text(f"{heads.published().read_text()}{forged}\n")
    assert heads.unknown_published() == [f"{heads.published()} names a key that never signed here: {forged}"]


def strange_files(path: Path, tmp_path: Path) -> Iterator[str]:
    """Things at `path` that nobody should wait for or read to their end, and what is said about each."""
    fifo, huge = tmp_path / "fifo", tmp_path / "huge"
    os.mkfifo(fifo)
    with huge.open("wb") as file:
        file.truncate(2**40)
    irregular = "it is not a regular file"
    path.unlink()
    for target, expected in (
        (fifo, irregular),
        (Path("/dev/zero"), irregular),
        (tmp_path, irregular),
        (huge, "longer"),
    ):
        path.symlink_to(target)
        yield expected
        path.unlink()
    os.mkfifo(path)
    yield irregular
    path.unlink()
    path.mkdir()
    yield irregular
    path.rmdir()


def watched(work: Callable[[], object]) -> object:
    """Fail instead of hanging."""

    def stop(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        return work()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["000000000003", "latest"])
def test_what_is_no_file_of_usual_size_stops_neither_start_nor_signing_nor_verify(
    name: str, tmp_path: Path, audit: Run
) -> None:
    grow(3)
    heads.sign_head()
    grow(1)
    path = heads.folder() / name
    for expected in strange_files(path, tmp_path):
        for refuse in (heads.ensure_grown_from_newest, heads.sign_head):
            with pytest.raises(Invalid, match=expected) as caught:
                watched(refuse)
            assert str(path) in caught.value.detail
        code, lines = watched(lambda: audit("verify"))
        assert code == 1
        assert any(line.startswith(f"NOT INTACT: {path}: ") and expected in line for line in lines), lines
    assert Checkpoint.objects.count() == 1, "nothing was signed meanwhile"


def test_keys_that_are_no_file_of_usual_size_are_refused(tmp_path: Path, audit: Run) -> None:
    grow(1)
    heads.sign_head()
    public = heads.published()
    note = public.read_text()
    for expected in strange_files(public, tmp_path):
        code, lines = watched(lambda: audit("verify"))
        assert code == 1
        assert len(lines) == 1
        assert lines[0].startswith(f"NOT INTACT: {public} ")
        assert expected in lines[0]
        with pytest.raises(Invalid, match="Cannot read public keys"):
            watched(lambda: audit("verify", "--export", "/dev/null", "--checkpoints", str(heads.folder())))
    public.write_text(note)
    for each in tmp_path.glob("[fh]*"):
        each.unlink()
    for expected in strange_files(settings.CHECKPOINT_KEYS, tmp_path):
        with pytest.raises(Invalid, match=expected):
            watched(heads.verifiers)


def test_a_draft_that_somebody_put_there_is_not_written_to() -> None:
    grow(1)
    heads.folder().mkdir()
    draft = heads.folder() / f".latest.{os.getpid()}"
    os.mkfifo(draft)
    assert watched(heads.sign_head) == 1
    assert not draft.exists()
    assert (heads.folder() / "latest").is_file()
