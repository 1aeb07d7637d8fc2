"""What a database's owner does behind the triggers, seen by `audit verify`; what cannot be read hides nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F

from jitaccess.audit import checkpoint, heads, stored
from jitaccess.audit.models import Checkpoint, Entry, Node, Unsequenced
from jitaccess.kernel.errors import Invalid
from tests.audit.behind import run, tampered
from tests.audit.ledgers import SIZE, Run, place

pytestmark = pytest.mark.django_db


def entry_edits(seq: int) -> dict[str, Callable[[], object]]:
    """Each field of one entry to another value of its kind."""
    row = Entry.objects.filter(leaf__seq=seq)
    edits: dict[str, Callable[[], object]] = {}
    for field in Entry._meta.concrete_fields:
        kind = field.get_internal_type()
        new = {"UUIDField": uuid4(), "DateTimeField": F("at") + timedelta(microseconds=1), "BigIntegerField": 4}
        edits[field.name] = partial(row.update, **{field.name: new.get(kind, "x")})
    return edits


@pytest.mark.timeout(400)  # a verification for each field, beside whatever else runs
def test_every_edited_field_of_an_entry_is_found(ledger: Path, audit: Run) -> None:
    assert audit("verify") == (0, ["Intact: 600 entries, all of them signed by 2 checkpoints."])
    pk = place(257)
    edits = entry_edits(257)
    assert len(edits) == len(Entry._meta.concrete_fields) >= 20
    for name, edit in edits.items():
        with tampered(edit):
            code, lines = audit("verify")
        # With another uid it is no longer the entry that the leaf belongs to.
        expected = (
            "cannot be read: it has a leaf, but is not there" if name == "uid" else "was changed, or its leaf was"
        )
        assert code == 1, name
        assert lines[0].startswith(f"NOT INTACT: entry 257 {expected}"), name
        assert lines[1:] == (["NOT INTACT: 1 entries were never given a place"] if name == "uid" else []), name
    for edit in (run("DELETE FROM jit_audit_entry WHERE uid = %s", pk.hex if connection.vendor == "sqlite" else pk),):
        with tampered(edit):
            assert audit("verify")[1][0].startswith("NOT INTACT: entry 257 cannot be read: it has a leaf")
    assert audit("verify")[0] == 0


TREE: dict[str, tuple[Callable[[], object], str]] = {
    "leaf hash": (run("UPDATE jit_audit_leaf SET leaf_hash = %s WHERE seq = 5", "00" * 32), "entry 5 was changed, or"),
    "leaf text": (run("UPDATE jit_audit_leaf SET leaf_hash = 'x' WHERE seq = 5"), "the leaf of entry 5 is damaged"),
    "leaf case": (run("UPDATE jit_audit_leaf SET leaf_hash = upper(leaf_hash) WHERE seq = 5"), "the leaf of entry 5"),
    "leaf gone": (run("DELETE FROM jit_audit_leaf WHERE seq = 5"), "entry 5 is missing"),
    "leaf moved": (run("UPDATE jit_audit_leaf SET seq = 601 WHERE seq = 5"), "entry 5 is missing"),
    "leaf far away": (run("UPDATE jit_audit_leaf SET seq = 9e17 WHERE seq = 600"), "entries 600 to 89999"),
    "leaf below zero": (run("UPDATE jit_audit_leaf SET seq = -5 WHERE seq = 600"), "entry -5 is there twice, or out"),
    "leaves swapped": (
        lambda: [
            run("UPDATE jit_audit_leaf SET seq = %s WHERE seq = %s", new, old)()
            for old, new in ((5, 0), (300, 5), (0, 300))
        ],
        "the first 300 entries are not those",
    ),
    "tail cut": (run("DELETE FROM jit_audit_leaf WHERE seq > 590"), "10 entries are missing that were signed at 600"),
    "all gone": (run("DELETE FROM jit_audit_leaf"), "600 entries are missing that were signed at 600"),
    "node hash": (run('UPDATE jit_audit_node SET hash = %s WHERE "index" = 1', "00" * 32), "node 8/1 of the tree is"),
    "node text": (run("UPDATE jit_audit_node SET hash = 'x' WHERE \"index\" = 1"), "node 8/1 of the tree is"),
    "node level": (run('UPDATE jit_audit_node SET level = 9 WHERE "index" = 1'), "node 8/1 of the tree is missing"),
    "node index": (run('UPDATE jit_audit_node SET "index" = 7 WHERE "index" = 1'), "node 8/1 of the tree is missing"),
    "node gone": (run('DELETE FROM jit_audit_node WHERE "index" = 0'), "node 8/0 of the tree is missing"),
    "node too many": (lambda: Node.objects.create(level=16, index=0, hash="00" * 32), "1 nodes of the tree should not"),
    "size": (run("UPDATE jit_audit_checkpoint SET size = 299 WHERE size = 300"), "checkpoint 299 of the database is sig"),
    "note": (run("UPDATE jit_audit_checkpoint SET note = 'x' WHERE size = 300"), "checkpoint 300 of the database: This"),
    "root in a note": (
        lambda: Checkpoint.objects.filter(size=300).update(
            note=checkpoint.sign(checkpoint.Checkpoint("x/ledger", 300, b"\x07" * 32), heads.signers())
        ),
        "the first 300 entries are not those",
    ),
}  # fmt: skip


def test_every_edit_of_leaves_nodes_and_checkpoints_is_found(ledger: Path, audit: Run) -> None:
    for name, (edit, expected) in TREE.items():
        with tampered(edit):
            code, lines = audit("verify")
        assert code == 1, name
        assert any(line.startswith(f"NOT INTACT: {expected}") for line in lines), (name, lines)
    assert audit("verify")[0] == 0


def test_every_edit_of_a_checkpoint_file_is_found(ledger: Path, audit: Run) -> None:
    older, newer = ledger / "000000000300", ledger / "000000000600"
    good = older.read_text()
    for where in range(0, len(good), 7):
        older.write_text(good[:where] + ("X" if good[where] != "X" else "Y") + good[where + 1 :])
        code, lines = audit("verify")
        assert code == 1, where
        assert lines[0].startswith(f"NOT INTACT: {older}: "), where
    older.write_bytes(b"\xff")
    assert audit("verify")[1][0].startswith(f"NOT INTACT: {older}: ")
    older.write_text(newer.read_text())
    assert audit("verify") == (1, [f"NOT INTACT: {older} is signed over 600 entries, not 300"])
    older.write_text(good)
    (ledger / "latest").write_text("x")
    assert audit("verify")[1][0].startswith(f"NOT INTACT: {ledger / 'latest'}: ")
    (ledger / "latest").write_text(newer.read_text())
    assert audit("verify")[0] == 0


def test_entries_without_a_place_and_places_without_an_entry_are_found(ledger: Path, audit: Run) -> None:
    with tampered(lambda: grow_unsequenced() and Unsequenced.objects.all().delete()):
        assert audit("verify") == (1, ["NOT INTACT: 2 entries were never given a place"])
    with tampered(lambda: Unsequenced.objects.create(entry_id=uuid4())):
        assert audit("verify") == (1, ["NOT INTACT: 1 entries are gone that waited for their place"])
    with tampered(lambda: grow_unsequenced()):
        assert audit("verify")[0] == 0, "these just wait"


def grow_unsequenced() -> bool:
    """As with the trigger that queues them, which an owner behind the triggers does not have."""
    entries = [Entry(at=Entry.objects.first().at, event="made up") for _ in range(2)]
    Entry.objects.bulk_create(entries)
    if not Unsequenced.objects.exists():
        Unsequenced.objects.bulk_create(Unsequenced(entry_id=entry.uid) for entry in entries)
    return True


def damages(postgresql: bool) -> dict[str, Callable[[], object]]:
    """Rows that no reader can make sense of: SQLite stores anything anywhere; on PostgreSQL the owner allows NULL."""
    if postgresql:
        return {
            "entry 10 cannot be read": run(
                "ALTER TABLE jit_audit_entry ALTER at DROP NOT NULL; "
                "UPDATE jit_audit_entry SET at = NULL WHERE uid = (SELECT entry_id FROM jit_audit_leaf WHERE seq = 10)"
            ),
            "the leaf of entry 20 is damaged": run(
                "ALTER TABLE jit_audit_leaf ALTER leaf_hash DROP NOT NULL; "
                "UPDATE jit_audit_leaf SET leaf_hash = NULL WHERE seq = 20"
            ),
            "entry 30 cannot be hashed": at(30, "policy_version = 9007199254740993"),
            "checkpoint 300 of the database cannot be read": run(
                "ALTER TABLE jit_audit_checkpoint ALTER note DROP NOT NULL; "
                "UPDATE jit_audit_checkpoint SET note = NULL WHERE size = 300"
            ),
        }
    return {
        "entry 10 cannot be read": at(10, "at = 'yesterday'"),
        "the leaf of entry 20 is damaged": run("UPDATE jit_audit_leaf SET leaf_hash = x'00' WHERE seq = 20"),
        "entry 30 cannot be hashed": at(30, "policy_version = 9007199254740993"),
        "checkpoint 300 of the database cannot be read": run(
            "UPDATE jit_audit_checkpoint SET at = 'yesterday' WHERE size = 300"
        ),
        "entry 40 cannot be read": at(40, "tool = CAST(x'ff' AS TEXT)"),
        "entry 50 cannot be read": at(50, "agent = 'nobody'"),
        "entry 499 cannot be read": at(499, "uid = 'nothing'"),
        "entry 500 cannot be read": at(500, "at = 5"),
        "entry 501 cannot be read": run("UPDATE jit_audit_leaf SET entry_id = 'nothing' WHERE seq = 501"),
        "the leaf of entry 60 cannot be read": run(
            "UPDATE jit_audit_leaf SET leaf_hash = CAST(x'ff' AS TEXT) WHERE seq = 60"
        ),
        "node 8/0 of the tree is missing or was changed": run(
            "UPDATE jit_audit_node SET hash = CAST(x'ff' AS TEXT) WHERE \"index\" = 0"
        ),
        "1 leaves have no number": run("UPDATE jit_audit_leaf SET seq = 'last' WHERE seq = 600"),
    }


def without_constraints() -> None:
    """The leaves in a table that allows everything."""
    for statement in (
        "CREATE TABLE copy AS SELECT * FROM jit_audit_leaf",
        "DROP TABLE jit_audit_leaf",
        "ALTER TABLE copy RENAME TO jit_audit_leaf",
    ):
        with connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "INSERT INTO jit_audit_leaf (seq, entry_id, leaf_hash) SELECT 601, entry_id, leaf_hash "
            "FROM jit_audit_leaf WHERE seq = 7",
            ["1 places hold an entry that has another place too"],
        ),
        (
            "INSERT INTO jit_audit_leaf SELECT * FROM jit_audit_leaf WHERE seq = 500",
            ["entry 500 is there twice, or out of order", "1 places hold an entry that has another place too"],
        ),
        (
            "UPDATE jit_audit_leaf SET seq = NULL WHERE seq = 600",
            ["1 leaves have no number", "1 entries are missing", "1 entries were never given"],
        ),
    ],
    ids=["entry twice", "place twice", "no number"],
)
def test_what_constraints_rule_out_is_found_when_somebody_dropped_them(
    ledger: Path, audit: Run, statement: str, expected: list[str]
) -> None:
    def edit() -> None:
        without_constraints()
        run(statement)()

    with tampered(edit):
        code, lines = audit("verify")
    assert code == 1
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert text in line


def at(seq: int, change: str) -> Callable[[], object]:
    return run(
        f"UPDATE jit_audit_entry SET {change} WHERE uid = (SELECT entry_id FROM jit_audit_leaf WHERE seq = {seq})"
    )


def test_what_cannot_be_read_is_a_finding_each_and_hides_no_other(ledger: Path, audit: Run, postgresql: bool) -> None:
    for expected, edit in damages(postgresql).items():
        with tampered(edit):
            code, lines = audit("verify")
            assert code == 1, expected
            assert any(line.startswith(f"NOT INTACT: {expected}") for line in lines), (expected, lines)
            assert not any("not those that were signed" in line for line in lines), "the rest is still seen to be good"

    def everything() -> None:
        for edit in [*damages(postgresql).values(), at(77, "user_name = 'mallory'")]:
            edit()

    with tampered(everything):
        code, lines = audit("verify")
        for expected in damages(postgresql):
            assert any(line.startswith(f"NOT INTACT: {expected}") for line in lines), (expected, lines)
        assert any(line.startswith("NOT INTACT: entry 77 was changed") for line in lines)
        assert len([line for line in lines if line.startswith("NOT INTACT: entry")]) <= len(damages(postgresql)) + 3
    assert audit("verify")[0] == 0


def test_findings_come_in_order_and_a_long_list_is_cut(ledger: Path, audit: Run) -> None:
    with tampered(run("UPDATE jit_audit_entry SET user_name = 'mallory'")):
        code, lines = audit("verify")
    assert code == 1
    assert len(lines) == 101
    assert [line.split()[3] for line in lines[:100]] == [str(number) for number in range(1, 101)]
    assert lines[100] == "NOT INTACT: and 500 more findings"


def test_a_checkpoint_that_is_signed_while_the_ledger_is_read_is_no_finding(
    ledger: Path, audit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = stored.verified

    def meanwhile(*arguments: object) -> object:
        note = checkpoint.sign(checkpoint.Checkpoint("x/ledger", 601, b"\x07" * 32), heads.signers())
        (ledger / "000000000601").write_text(note)
        (ledger / "latest").write_text(note)
        return verified(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "verified", meanwhile)
    assert audit("verify") == (0, ["Intact: 600 entries, all of them signed by 2 checkpoints."])
    assert audit("verify")[0] == 1, "the next time it counts"


def test_without_any_key_checkpoints_are_not_taken_for_good(ledger: Path, audit: Run, settings: object) -> None:
    keys = ledger.parent / "public"
    (ledger / "keys").rename(keys)
    settings.CHECKPOINT_KEYS.unlink()  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match="--key"):
        audit("verify")
    assert audit("verify", "--key", str(keys))[0] == 0
    (ledger / "keys").write_text(checkpoint.Signer.generate("other").verifier.text)
    code, lines = audit("verify")
    assert code == 1
    assert all("signed by none of the known keys" in line for line in lines)


def test_memory_does_not_grow_with_the_ledger(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a chunk of rows is held, whatever the length, and all of them are read."""
    monkeypatch.setattr(stored, "CHUNK", 7)
    held: list[int] = []
    attempt = stored._attempt

    def watched(read: Callable[[], object]) -> object:
        value = attempt(read)
        held.append(len(list(value)) if isinstance(value, list | dict) else 0)
        return value

    monkeypatch.setattr(stored, "_attempt", watched)
    assert len(list(stored.rows())) == SIZE
    assert max(held) == 7
