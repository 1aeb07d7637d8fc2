"""Starting and stopping: what a newcomer sees, and one clear sentence for each thing that is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.installation import LINKS, ON_POSTGRESQL, ROOT, Installation, Person, create_database, eventually
from tests.mcp_client import MODERN, connect


@pytest.mark.pure
def test_the_first_start_says_how_to_sign_in_and_what_to_try(installation: Installation) -> None:
    process = installation.up()
    links = dict(LINKS.findall(process.output))
    assert links.keys() == {"admin", "olga", "anna", "bert"}
    assert len(set(links.values())) == 4
    assert f"MCP server for agents: {process.url}/mcp/git" in process.output
    assert "agents token demo-agent" in process.output
    assert "agents snippet" in process.output
    staged = installation.query(
        "SELECT count(*) AS n FROM jit_audit_entry WHERE user_name = 'system:demo' AND event = 'tool.classified'"
    )
    assert staged[0]["n"] == 12


@pytest.mark.pure
def test_ctrl_c_stops_within_five_seconds_and_leaves_no_child(cold: Installation) -> None:
    process = cold.up()

    async def use() -> None:
        async with connect(process.url, cold.ready_token, era=MODERN) as agent:
            await agent.call("git_status", repo_path=".")
            children = psutil.Process(process.popen.pid).children(recursive=True)
            assert any("mcp_server_git" in " ".join(child.cmdline()) for child in children)
            # Stopped with a stream open and a child running: both would hold a careless stop.
            assert await asyncio.to_thread(process.stop) < 5
            assert psutil.wait_procs(children, timeout=2)[1] == []

    asyncio.run(use())
    assert process.popen.returncode == 0
    assert process.lines[-1] == "Stopped."


@pytest.mark.pure
def test_a_second_start_stages_a_change_again_and_keeps_everything(installation: Installation) -> None:
    before = len(installation.ledger())
    repository = installation.var / "demo/repository"
    subprocess.run(["git", "commit", "-qm", "by hand"], cwd=repository, check=True)
    installation.up()
    staged = subprocess.run(
        ["git", "diff", "--cached", "--name-only"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert staged.stdout.strip() == "notes.md"
    assert len(installation.query("SELECT id FROM jit_identity_agent")) == 1
    assert len(installation.ledger()) > before


@pytest.mark.pure
def test_a_start_without_the_demo_makes_only_an_admin(migrated: str, tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var")
    installation.var.mkdir(mode=0o700)
    shutil.copy(migrated, installation.var / "jitaccess.sqlite3")
    try:
        process = installation.up("--no-demo")
        assert dict(LINKS.findall(process.output)).keys() == {"admin"}
        assert installation.query("SELECT id FROM jit_identity_agent") == []
        installation.stop()
        assert "demo-agent" not in installation.up().output  # the refusal holds
    finally:
        installation.stop()


@pytest.mark.pure
def test_a_port_in_use_is_one_clear_sentence(installation: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = installation.cli("up", "--port", str(port), check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "PORT=" in line


@pytest.mark.pure
def test_a_second_process_on_the_same_var_is_refused(installation: Installation) -> None:
    process = installation.up()
    result = installation.cli("up", "--port", "0", check=False)
    assert result.returncode == 1
    assert f"already running on {installation.var} (process {process.popen.pid})" in result.stderr


@pytest.mark.pure
def test_a_var_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("not a folder")
    result = Installation(tmp_path / "var").cli("up", "--port", "0", check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert str(tmp_path / "var") in line
    assert "directory" in line


@pytest.mark.pure
def test_a_broken_database_file_is_one_clear_sentence_and_is_left_alone(tmp_path: Path) -> None:
    var = tmp_path / "var"
    var.mkdir()
    broken = b"this is not a database, but it may be somebody's last copy of one" * 100
    (var / "jitaccess.sqlite3").write_bytes(broken)
    result = Installation(var).cli("up", "--port", "0", check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "jitaccess.sqlite3 cannot be used" in line
    assert (var / "jitaccess.sqlite3").read_bytes() == broken


def test_a_newer_schema_is_refused_and_nothing_is_changed(installation: Installation) -> None:
    installation.execute(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('jit_policy', '9999_from_the_future', CURRENT_TIMESTAMP)"
    )
    before = installation.query("SELECT app, name FROM django_migrations")
    result = installation.cli("up", "--port", "0", check=False)
    assert result.returncode == 1
    assert "newer jitaccess (jit_policy.9999_from_the_future)" in result.stderr
    assert installation.query("SELECT app, name FROM django_migrations") == before


def test_an_older_schema_is_backed_up_and_migrated(installation: Installation) -> None:
    entries = installation.query("SELECT count(*) AS n FROM jit_audit_entry")[0]["n"]
    for table in ("delivery", "preference"):
        installation.execute(f"DROP TABLE jit_notify_{table}")
    installation.execute("DELETE FROM django_migrations WHERE app = 'jit_notify'")
    process = installation.up()
    assert "Database: migrated" in process.output
    assert installation.query("SELECT count(*) AS n FROM jit_notify_delivery")[0]["n"] == 0
    if not ON_POSTGRESQL:
        (backup,) = (installation.var / "backups").iterdir()
        assert str(backup) in process.output
        with sqlite3.connect(backup) as copy:
            assert copy.execute("SELECT count(*) FROM jit_audit_entry").fetchone()[0] == entries
            assert (
                copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'jit_notify_delivery'").fetchone()[0] == 0
            )
        copy.close()


def test_processes_of_their_own_need_postgresql_and_a_current_schema(tmp_path: Path) -> None:
    result = Installation(tmp_path / "var").cli("gateway", "--port", "0", check=False)
    assert result.returncode == 1
    assert "DATABASE_URL" in result.stderr
    if ON_POSTGRESQL:
        result = Installation(tmp_path / "var", create_database()).cli("gateway", "--port", "0", check=False)
        assert result.returncode == 1
        assert "jitaccess migrate" in result.stderr


@pytest.mark.pure
def test_secrets_are_for_their_owner_only_and_no_token_is_on_disk(installation: Installation) -> None:
    token = installation.token()
    for secret in (installation.var / "secrets").iterdir():
        assert os.stat(secret).st_mode & 0o077 == 0
    for path in installation.var.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()


@pytest.mark.pure
def test_a_sign_in_link_works_once(installation: Installation) -> None:
    url = installation.up().url
    link = installation.cli("people", "link", "anna").stdout.strip()
    assert link.startswith(f"{url}/sign-in/")
    first = Person(url, link)
    assert "anna" in first.get("/").text.lower()
    second = Person(url)
    path = "/" + link.split("/", 3)[3]
    assert second.get(path).status_code in {404, 410}
    assert second.get("/").url.path == "/accounts/login/"
    for person in (first, second):
        person.http.close()
    eventually(lambda: installation.ledger("user.signed_in"), what="on record")


def test_a_database_with_its_triggers_can_be_migrated(installation: Installation) -> None:
    """SQLite reads every trigger when a migration renames a table."""
    before = installation.ledger()
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "jit_policy", "0002"]
    subprocess.run(command, env=installation.env, cwd=ROOT, check=True)
    old = installation.query("SELECT version FROM jit_policy_policyversion")[0]["version"]
    assert installation.cli("agents", "list", check=False).returncode == 1, "an older schema is not used"
    assert "migrated" in installation.cli("migrate").stdout
    new = installation.query("SELECT version FROM jit_policy_policyversion")[0]["version"]
    assert new > old or ON_POSTGRESQL, "what happened without triggers is not taken for known"
    assert "demo-agent" in installation.cli("agents", "list").stdout
    assert installation.ledger()[: len(before)] == before
    installation.up()
    assert installation.token()
