"""`jitaccess audit export`, `prove` and `verify --export` or `--proof`: what leaves the installation, and holds elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from tests.audit.behind import run, tampered
from tests.audit.ledgers import SIZE, Run, grow, place
from tests.audit.second_verifier import intact, proves

pytestmark = pytest.mark.django_db


def test_an_export_of_a_damaged_ledger_has_the_rest_and_says_what_is_left_out(
    ledger: Path, audit: Run, tmp_path: Path
) -> None:
    export = tmp_path / "export.jsonl"
    with tampered(run("DELETE FROM jit_audit_entry WHERE uid = (SELECT entry_id FROM jit_audit_leaf WHERE seq = 10)")):
        assert audit("export", "--output", str(export))[0] == 1
    assert [json.loads(line)["seq"] for line in export.read_text().splitlines()] == [
        seq for seq in range(1, SIZE + 1) if seq != 10
    ]


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


def test_verify_says_how_many_entries_are_signed(ledger: Path, audit: Run, tmp_path: Path) -> None:
    grow(2)
    assert audit("verify") == (0, ["Intact: 602 entries, the first 600 of them signed by 2 checkpoints."])
    export, one = tmp_path / "export.jsonl", ledger / "000000000300"
    audit("export", "--output", str(export))
    code, lines = audit("verify", "--export", str(export), "--checkpoints", str(one), "--key", str(ledger / "keys"))
    assert (code, lines) == (0, ["Intact: 602 entries, the first 300 of them signed by 1 checkpoint."])
    code, lines = audit("verify", "--export", str(export))
    assert (code, lines[0]) == (0, "Intact: 602 entries, none of them signed.")
    assert lines[1:] == ["No checkpoint was given, so this shows only that the entries agree with themselves."]


def test_what_an_export_holds_beside_its_entries_is_a_finding(ledger: Path, audit: Run, tmp_path: Path) -> None:
    """Somebody who reads the file would take it for verified."""
    export = tmp_path / "export.jsonl"
    audit("export", "--output", str(export))
    lines = export.read_bytes().splitlines(keepends=True)
    lines[9] = lines[9].replace(b'{"seq"', b'{"approved_by":"the board","seq"', 1)
    export.write_bytes(b"".join(lines))
    code, found = audit("verify", "--export", str(export), "--checkpoints", str(ledger))
    assert (code, found) == (1, ["NOT INTACT: line 10 of the export has what no hash covers: approved_by"])
    assert not intact(export.read_text(), (ledger / "latest").read_text(), (ledger / "keys").read_text())


def test_verify_warns_when_nothing_outside_the_database_speaks_for_it(ledger: Path, audit: Run, tmp_path: Path) -> None:
    good = "Intact: 600 entries, all of them signed by 2 checkpoints."
    empty = tmp_path / "empty"
    empty.mkdir()

    def warning(folder: Path) -> str:
        return (
            f"No checkpoint outside the database was found in {folder}: "
            "whoever owns the database could have rewritten all of it."
        )

    assert audit("verify") == (0, [good])
    key = str(ledger / "keys")
    assert audit("verify", "--checkpoints", str(empty), "--key", key) == (0, [good, warning(empty)])
    assert audit("verify", "--checkpoints", str(ledger / "latest"), "--key", key) == (0, [good])
    for path in ledger.glob("[0l]*"):
        path.unlink()
    assert audit("verify") == (0, [good, warning(ledger)])
    shutil.rmtree(ledger)
    assert audit("verify") == (0, [good, warning(ledger)])
