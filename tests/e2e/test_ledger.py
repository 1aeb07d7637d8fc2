"""The ledger from outside: verified by the command, offline from an export, and refused when it was rolled back."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.audit.second_verifier import intact
from tests.installation import Installation, eventually


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


def test_a_ledger_that_was_rolled_back_is_not_served(installation: Installation, tmp_path: Path) -> None:
    older = installation.copy(tmp_path / "older")  # a backup of before
    installation.up()
    newest = installation.ledger()[-1]
    assert newest["event"] == "sign_in_link.issued"
    installation.token()
    installation.stop()
    installation.up()
    eventually(lambda: installation.query("SELECT max(size) AS n FROM jit_audit_checkpoint")[0]["n"], what="signed")
    installation.stop()
    shutil.copytree(installation.var / "checkpoints", older.var / "checkpoints", dirs_exist_ok=True)
    shutil.copy(installation.var / "secrets/checkpoint_keys", older.var / "secrets/checkpoint_keys")
    refused = older.cli("up", "--port", "0", check=False)
    assert refused.returncode == 1
    assert "rolled back" in refused.stderr
