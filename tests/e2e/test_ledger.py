"""The ledger from outside: verified by the command, offline from an export, and refused when it was rolled back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.second_verifier import intact, proves
from tests.installation import ON_POSTGRESQL, Installation, eventually


def test_a_ledger_is_verified_by_the_command_and_offline_by_two_verifiers(
    installation: Installation, tmp_path: Path
) -> None:
    installation.up()
    heads = installation.var / "checkpoints"
    eventually(lambda: (heads / "latest").exists(), what="a checkpoint is signed")
    installation.stop()
    assert installation.cli("audit", "verify").stdout.startswith("Intact: ")
    export = tmp_path / "export.jsonl"
    installation.cli("audit", "export", "--output", str(export))
    away = Installation(tmp_path / "nowhere")
    offline = away.cli("audit", "verify", "--export", str(export), "--checkpoints", str(heads))
    assert offline.stdout.startswith("Intact: ")
    assert not (tmp_path / "nowhere").exists()
    note, key = (heads / "latest").read_text(), (heads / "keys").read_text().splitlines()[0]
    assert intact(export.read_text(), note, key)

    export.write_text(export.read_text().replace("system:demo", "system:demi", 1))
    forged = away.cli("audit", "verify", "--export", str(export), "--checkpoints", str(heads), check=False)
    assert forged.returncode == 1
    assert "NOT INTACT" in forged.stdout
    assert not intact(export.read_text(), note, key)


@pytest.mark.pure
def test_proofs_are_checked_with_nothing_but_the_public_key(installation: Installation, tmp_path: Path) -> None:
    installation.up()
    heads = installation.var / "checkpoints"
    eventually(lambda: (heads / "latest").exists(), what="a checkpoint is signed")
    size = int((heads / "latest").read_text().splitlines()[1])
    installation.stop()
    keys, proof = tmp_path / "keys", tmp_path / "proof.json"
    shutil.copy(heads / "keys", keys)
    seq = min(3, size)
    [row] = installation.query(f"SELECT entry_id, seq FROM jit_audit_leaf WHERE seq = {seq}")
    away = Installation(tmp_path / "nowhere")
    proof.write_text(installation.cli("audit", "prove", str(row["entry_id"])).stdout)
    proven = away.cli("audit", "verify", "--proof", str(proof), "--key", str(keys)).stdout
    assert proven.startswith(f"Proven: entry {seq} (")
    assert proven.count("\n") == 1
    assert proves(proof.read_text(), keys.read_text())
    installation.cli("audit", "prove", "--from", str(seq), "--output", str(proof))
    grown = away.cli(
        "audit", "verify", "--proof", str(proof), "--key", str(keys), "--checkpoints", str(heads / "latest")
    )
    assert f"begins with the same {seq} entries" in grown.stdout
    assert proves(proof.read_text(), keys.read_text())
    assert not (tmp_path / "nowhere").exists()

    proof.write_text(proof.read_text().replace('"path":["', '"path":["' + "00" * 32 + '","'))
    forged = away.cli("audit", "verify", "--proof", str(proof), "--key", str(keys), check=False)
    assert (forged.returncode, forged.stdout[:12]) == (1, "NOT PROVEN: ")
    assert not proves(proof.read_text(), keys.read_text())
    trusting = away.cli("audit", "verify", "--proof", str(proof), check=False)
    assert (trusting.returncode, trusting.stdout) == (1, "")
    assert "--key" in trusting.stderr


@pytest.fixture
def rolled_back(installation: Installation, tmp_path: Path) -> Installation:
    """An older database under newer checkpoints."""
    older = installation.copy(tmp_path / "older")  # a backup of before
    had = older.query("SELECT count(*) AS n FROM jit_audit_entry")[0]["n"]
    installation.up()
    assert installation.ledger()[-1]["event"] == "sign_in_link.issued"
    installation.token()
    installation.stop()
    installation.up()
    # More than the backup has, which may have a checkpoint itself. They are signed once a minute.
    newest = "SELECT coalesce(max(size), 0) AS n FROM jit_audit_checkpoint"
    eventually(lambda: installation.query(newest)[0]["n"] > had, within=80, what="signed")
    installation.stop()
    shutil.copytree(installation.var / "checkpoints", older.var / "checkpoints", dirs_exist_ok=True)
    shutil.copy(installation.var / "secrets/checkpoint_keys", older.var / "secrets/checkpoint_keys")
    return older


SIGN = """
import django
django.setup()
from jitaccess.audit.heads import sign_head
from jitaccess.audit.sequencer import sequence
while sequence():
    pass
sign_head()
"""


def test_a_ledger_that_was_rolled_back_is_neither_served_nor_signed(rolled_back: Installation) -> None:
    signed = rolled_back.query("SELECT size FROM jit_audit_checkpoint")
    files = sorted(path.name for path in (rolled_back.var / "checkpoints").iterdir())
    for role in ("up", "web", "gateway") if ON_POSTGRESQL else ("up",):
        refused = rolled_back.cli(role, "--port", "0", check=False)
        assert refused.returncode == 1, role
        assert "rolled back" in refused.stderr
        assert refused.stderr.count("\n") == 1, "one sentence"
        assert "on http" not in refused.stdout
    found = rolled_back.cli("audit", "verify", check=False)
    assert found.returncode == 1
    assert "entries are missing that were signed at" in found.stdout
    # A leader that is running already when this happens does not sign either, however the ledger grows meanwhile.
    rolled_back.token()
    leader = subprocess.run(
        [sys.executable, "-c", SIGN],
        env=rolled_back.env | {"DJANGO_SETTINGS_MODULE": "jitaccess.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert leader.returncode == 1
    assert "rolled back" in leader.stderr
    assert rolled_back.query("SELECT size FROM jit_audit_checkpoint") == signed
    assert sorted(path.name for path in (rolled_back.var / "checkpoints").iterdir()) == files


@pytest.mark.postgresql_only
def test_a_host_with_copies_but_no_keys_compares_and_one_without_anything_starts(rolled_back: Installation) -> None:
    checkpoints, keys = rolled_back.var / "checkpoints", rolled_back.var / "secrets/checkpoint_keys"
    keys.unlink()
    assert "rolled back" in rolled_back.cli("gateway", "--port", "0", check=False).stderr
    (checkpoints / "keys").unlink()
    assert "cannot be checked" in rolled_back.cli("gateway", "--port", "0", check=False).stderr
    shutil.rmtree(checkpoints)
    rolled_back.start("gateway")
    rolled_back.stop()
    assert not keys.exists()
    assert not checkpoints.exists()
