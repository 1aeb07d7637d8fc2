from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from jitaccess.audit import heads
from jitaccess.runtime import audit_commands
from tests.audit.ledgers import SIZE, Run, grow


@pytest.fixture
def ledger(db: None, tmp_path: Path, settings: object) -> Path:
    """600 entries, signed at 300 and at 600."""
    settings.CHECKPOINTS, settings.CHECKPOINT_KEYS = tmp_path / "checkpoints", tmp_path / "keys"  # type: ignore[attr-defined]
    for _ in range(2):
        grow(SIZE // 2)
        heads.sign_head()
    return heads.folder()


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
