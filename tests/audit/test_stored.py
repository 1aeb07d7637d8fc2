"""What a database's owner does behind the triggers, seen by `audit verify`; what cannot be read hides nothing else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import F

from jitaccess.audit import checkpoint, heads, stored
from jitaccess.audit.events import Event
from jitaccess.audit.models import Checkpoint, Entry, Leaf, Node, Unsequenced
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence
from jitaccess.runtime import audit_commands
from tests.audit.behind import run, tampered
from tests.audit.second_verifier import intact, proves

pytestmark = pytest.mark.django_db
SIZE = 600
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def ledger(tmp_path: Path, settings: object) -> Path:
    """600 entries, signed at 300 and at 600."""
    settings.CHECKPOINTS, settings.CHECKPOINT_KEYS = tmp_path / "checkpoints", tmp_path / "keys"  # type: ignore[attr-defined]
    for _ in range(2):
        grow(SIZE // 2)
        heads.sign_head()
    return heads.folder()


def grow(count: int) -> None:
    uid = uuid4()
    actor = Actor(agent=uid, agent_name="demo-agent", user=uid, user_name="olga", client="tests", source="127.0.0.1")
    with transaction.atomic():
        record_many(
            Facts(
                event=Event.CALL_AUTHORIZED,
                actor=actor,
                request=uid,
                grant=uid,
                call=uid,
                server=uid,
                server_name="git",
                tool="git_add",
                tool_pin="sha256:00",
                bindings=[uid],
                policy_version=3,
                instance=uid,
                data={"number": number},
            )
            for number in range(count)
        )
    while sequence():
        pass


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]) -> Run:
    """`jitaccess audit …`: its exit code and the lines it prints."""

    def command(*arguments: str) -> tuple[int, list[str]]:
        parser = argparse.ArgumentParser()
        audit_commands.add(parser.add_subparsers())
        parsed = parser.parse_args(["audit", *arguments])
        capsys.readouterr()
        code = parsed.run(parsed)
        return code, capsys.readouterr().out.splitlines()

    return command


def place(seq: int) -> object:
    return Leaf.objects.get(seq=seq).entry_id


def entry_edits(seq: int) -> dict[str, Callable[[], object]]:
    """Each field of one entry to another value of its kind."""
    row = Entry.objects.filter(leaf__seq=seq)
    edits: dict[str, Callable[[], object]] = {}
    for field in Entry._meta.concrete_fields:
        kind = field.get_internal_type()
        new = {"UUIDField": uuid4(), "DateTimeField": F("at") + timedelta(microseconds=1), "BigIntegerField": 4}
        edits[field.name] = partial(row.update, **{field.name: new.get(kind, "x")})
    return edits


def test_every_edited_field_of_an_entry_is_found(ledger: Path, audit: Run) -> None:
    assert audit("verify") == (0, ["Intact: 600 entries, 2 signed checkpoints."])
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
    for place in range(0, len(good), 7):
        older.write_text(good[:place] + ("X" if good[place] != "X" else "Y") + good[place + 1 :])
        code, lines = audit("verify")
        assert code == 1, place
        assert lines[0].startswith(f"NOT INTACT: {older}: "), place
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


def test_an_export_of_a_damaged_ledger_has_the_rest_and_says_what_is_left_out(
    ledger: Path, audit: Run, tmp_path: Path, postgresql: bool
) -> None:
    export = tmp_path / "export.jsonl"
    with tampered(damages(postgresql)["entry 10 cannot be read"]):
        assert audit("export", "--output", str(export))[0] == 1
    assert [json.loads(line)["seq"] for line in export.read_text().splitlines()] == [
        seq for seq in range(1, SIZE + 1) if seq != 10
    ]


def test_findings_come_in_order_and_a_long_list_is_cut(ledger: Path, audit: Run) -> None:
    with tampered(run("UPDATE jit_audit_entry SET user_name = 'mallory'")):
        code, lines = audit("verify")
    assert code == 1
    assert len(lines) == 101
    assert [line.split()[3] for line in lines[:100]] == [str(number) for number in range(1, 101)]
    assert lines[100] == "NOT INTACT: and 500 more findings"


def test_a_damaged_export_is_checked_to_its_end(ledger: Path, audit: Run, tmp_path: Path) -> None:
    export = tmp_path / "export.jsonl"
    audit("export", "--output", str(export))
    lines = export.read_bytes().splitlines(keepends=True)
    assert audit("verify", "--export", str(export), "--checkpoints", str(ledger))[0] == 0
    note, key = (ledger / "latest").read_text(), (ledger / "keys").read_text()
    assert intact(export.read_text(), note, key)
    lines[9], lines[19], lines[29] = b"{\xff}\n", b"[]\n", b'{"seq": true, "entry": {}}\n'
    lines[39] = lines[39].replace(b"olga", b"anna")
    export.write_bytes(b"".join(lines))
    code, found = audit("verify", "--export", str(export), "--checkpoints", str(ledger))
    assert code == 1
    for expected in (
        "line 10 of the export is damaged",
        "line 20 of the export is damaged",
        "line 30 of the export is not an entry",
        "entry 10 is missing",
        "entry 20 is missing",
        "entry 30 is missing",
        "the checkpoint at 300 cannot be checked: of an entry before it nothing is known (and 1 later",
    ):
        assert any(line.startswith(f"NOT INTACT: {expected}") for line in found), (expected, found)


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


def test_proofs_are_made_for_every_entry_and_checked_away_from_here(ledger: Path, audit: Run, tmp_path: Path) -> None:
    keys, document, latest = ledger / "keys", tmp_path / "proof.json", ledger / "latest"
    for seq in (1, 256, 257, 300, 301, 600):
        uid = str(place(seq))
        assert audit("prove", uid, "--output", str(document))[0] == 0
        code, lines = audit("verify", "--proof", str(document), "--key", str(keys), "--checkpoints", str(latest))
        assert (code, len(lines)) == (0, 1)
        assert lines[0].startswith(f"Proven: entry {seq} (call.authorized ")
        assert uid in lines[0]
        assert proves(document.read_text(), keys.read_text())
    for size in (1, 255, 256, 299, 300, 600):
        assert audit("prove", "--from", str(size), "--output", str(document))[0] == 0
        code, lines = audit("verify", "--proof", str(document), "--key", str(keys))
        assert code == 0
        assert (json.loads(document.read_text())["old"]["checkpoint"] is not None) == (size in {300, 600})
        assert ("signed as well" in lines[0]) == (size in {300, 600})
        assert proves(document.read_text(), keys.read_text())
    document.write_text(document.read_text().replace('"size":600', '"size":599'))
    code, lines = audit("verify", "--proof", str(document), "--key", str(keys))
    assert (code, lines[0][:12]) == (1, "NOT PROVEN: ")
    assert not proves(document.read_text(), keys.read_text())


def test_what_is_not_signed_or_not_there_is_not_proven(ledger: Path, audit: Run) -> None:
    grow(1)
    for arguments, expected in (
        ([str(place(601))], "No checkpoint holds entry"),
        ([str(uuid4())], "There is no entry"),
        (["601x"], "is not the uid"),
        (["--from", "601"], "was signed after 600"),
        (["--from", "0"], "at least one"),
    ):
        with pytest.raises(Exception, match=expected):
            audit("prove", *arguments)
    with tampered(run("UPDATE jit_audit_entry SET tool = 'x'")):
        with pytest.raises(Exception, match="audit verify"):
            audit("prove", str(place(5)))
    with tampered(run("UPDATE jit_audit_leaf SET leaf_hash = %s", "00" * 32)):
        for arguments in ([str(place(5))], ["--from", "300"], ["--from", "17"]):
            with pytest.raises(Exception, match="audit verify"):
                audit("prove", *arguments)
