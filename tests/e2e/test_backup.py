"""Backup and restore as docs/guides/run-in-production.md says, with PostgreSQL's own programs."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.databases import programs
from tests.installation import ROOT, Installation, create_database, eventually
from tests.mcp_client import MODERN, connect

pytestmark = pytest.mark.postgresql_only
CHECKPOINTS = "checkpoints"


def _signed(installation: Installation) -> int:
    """The size of the newest checkpoint outside the database."""
    latest = installation.var / CHECKPOINTS / "latest"
    return int(latest.read_text().splitlines()[1]) if latest.exists() else 0


def _entries(installation: Installation) -> int:
    return int(installation.query("SELECT count(*) AS n FROM jit_audit_leaf")[0]["n"])


def test_a_dump_taken_under_load_is_a_whole_installation(installation: Installation, tmp_path: Path) -> None:
    guide = (ROOT / "docs/guides/run-in-production.md").read_text()
    assert "pg_dump --format=custom" in guide
    assert "pg_restore --exit-on-error --no-owner" in guide
    web, gateway = installation.start("web"), installation.start("gateway")
    token = installation.ready_token
    dump, saved = tmp_path / "jitaccess.dump", tmp_path / "saved"

    async def use() -> None:
        async with connect(gateway.url, token, era=MODERN) as agent:
            stop = asyncio.Event()

            async def load() -> None:
                while not stop.is_set():
                    assert not (await agent.call("git_status", repo_path=".")).is_error

            running = [asyncio.create_task(load()) for _ in range(3)]
            await asyncio.to_thread(eventually, lambda: _signed(installation), what="a checkpoint")
            # The order of the guide: checkpoints first, so that the dump is not older than what was signed.
            shutil.copytree(installation.var, saved)
            await asyncio.to_thread(_program, "pg_dump", "--format=custom", "--file", dump, installation.database_url)
            before = await asyncio.to_thread(_entries, installation)
            await asyncio.to_thread(eventually, lambda: _entries(installation) > before + 5, what="more calls")
            stop.set()
            await asyncio.gather(*running)

    asyncio.run(use())
    for process in (web, gateway):
        process.stop()
    all_of_them = _entries(installation)

    restored = Installation(saved, create_database())
    _program("pg_restore", "--exit-on-error", "--no-owner", "--dbname", restored.database_url, dump)
    assert 0 < _entries(restored) < all_of_them
    verified = restored.cli("audit", "verify")
    assert verified.stdout.startswith("Intact: ")
    try:
        again = restored.start("web")
        assert httpx2.get(f"{again.url}/readyz").status_code == 200
        # The restored one goes on where the dump ended.
        eventually(lambda: not restored.query("SELECT 1 FROM jit_audit_unsequenced"), what="sequenced")
        assert restored.cli("audit", "verify").returncode == 0
    finally:
        restored.stop()


def test_an_older_dump_is_refused_until_somebody_says_that_it_was_on_purpose(
    installation: Installation, tmp_path: Path
) -> None:
    dump = tmp_path / "old.dump"
    _program("pg_dump", "--format=custom", "--file", dump, installation.database_url)
    old = _entries(installation)
    for _ in range(3):
        installation.token()
    web = installation.start("web")
    eventually(lambda: _signed(installation) > old, what="a checkpoint that the dump does not know")
    web.stop()
    restored = Installation(installation.var, create_database())
    _program("pg_restore", "--exit-on-error", "--no-owner", "--dbname", restored.database_url, dump)
    refused = restored.cli("web", "--port", "0", check=False)
    assert refused.returncode == 1
    assert re.search(r"The ledger has \d+ entries, but .*latest was signed after \d+ entries", refused.stderr)
    assert restored.cli("audit", "verify", check=False).returncode == 1
    # As the guide says: the folder is evidence, so it is moved, not removed.
    (restored.var / CHECKPOINTS).rename(restored.var / "checkpoints-before-the-restore")
    try:
        started = restored.start("web")
        assert httpx2.get(f"{started.url}/healthz").status_code == 200
        restored.token()
        eventually(lambda: not restored.query("SELECT 1 FROM jit_audit_unsequenced"), what="sequenced")
        assert restored.cli("audit", "verify").returncode == 0
        kept = str(restored.var / "checkpoints-before-the-restore")
        gone = restored.cli("audit", "verify", "--checkpoints", kept, check=False)
        assert gone.returncode == 1, "who kept a checkpoint can still show what was lost"
    finally:
        restored.stop()


def _program(name: str, *arguments: object) -> None:
    subprocess.run([programs() / name, *map(str, arguments)], check=True, capture_output=True)
