"""What docker/ says is what runs: there is no container engine here, so its commands are run without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml

from tests.databases import programs
from tests.installation import COMMAND, ROOT, Process, eventually, free_port
from tests.redis import Redis

DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = ("migrate", "web", "gateway", "worker", "beat")
BIN = Path(sys.executable).parent


@pytest.mark.pure
def test_the_files_pass_their_linters() -> None:
    subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], check=True)
    schema = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"]
    subprocess.run(schema, check=True, capture_output=True)
    for script in DOCKER.glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.pure
def test_every_process_of_ours_is_confined_and_watched() -> None:
    assert set(COMPOSE["services"]) == {*OURS, "postgres", "redis"}
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        assert "privileged" not in service
        if name != "migrate":
            assert service["command"][0] == name
            assert service["healthcheck"]["test"][:3] == ["CMD", "jitaccess", "health"]
            assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
            assert "database_owner_url" not in service["secrets"], "only who migrates has the owner's password"
        for variable, value in service["environment"].items():
            # Passwords come as files: an environment is seen by whoever may look at the container.
            assert (
                not re.search(r"(PASSWORD|SECRET_KEY|KEYS|TOKEN|_URL)$", variable) or variable == "JITACCESS_PUBLIC_URL"
            ), value
    for port in [port for name in OURS for port in COMPOSE["services"][name].get("ports", [])]:
        assert port.startswith("127.0.0.1:"), "what stands in front has TLS"
    assert COMPOSE["networks"]["inside"] == {"internal": True}


@pytest.mark.pure
def test_the_database_is_not_called_healthy_while_its_image_sets_it_up_and_no_password_is_an_argument() -> None:
    (_, asked) = COMPOSE["services"]["postgres"]["healthcheck"]["test"]
    assert "--host=127.0.0.1" in asked, "then the image's own server is there, which does not listen on TCP"
    (_, _, started) = COMPOSE["services"]["redis"]["command"]
    (arguments,) = re.findall(r"exec (redis-server .*)", started)
    assert "$" not in arguments
    assert "/run/secrets/redis_password" in started


@pytest.mark.pure
def test_the_image_has_no_build_tools_and_no_root(tmp_path: Path) -> None:
    text = (DOCKER / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "HEALTHCHECK" in final
    assert "--require-hashes" in text
    assert not re.search(r"apt-get|pip install", final)
    assert not re.search(r"FROM \S+:latest|FROM [^:\s]+\s", text)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", text, re.MULTILINE)
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert {name for line in copied for name in line.split()} == kept


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    for _ in range(2):  # the second time everything is left as it is
        before = {path.name: path.read_text() for path in folder.glob("*")}
        subprocess.run(["sh", DOCKER / "secrets.sh", folder], check=True, capture_output=True)
        after = {path.name: path.read_text() for path in folder.glob("*")}
        assert not before or before == after
    assert set(after) == set(COMPOSE["secrets"])
    assert len(set(after.values())) == len(after)
    assert folder.stat().st_mode & 0o077 == 0
    return folder


@pytest.fixture
def services(secrets: Path, tmp_path: Path) -> Iterator[tuple[str, Redis]]:
    """What the names postgres and redis stand for: a database made by docker/postgres-roles.sh, and a broker."""
    url = os.environ["JITACCESS_TEST_DATABASE_URL"]
    base, _, query = url.partition("?")
    server = f"{base.rpartition('/')[0]}/{{}}?{query}"
    gone = "DROP DATABASE IF EXISTS jitaccess WITH (FORCE); DROP ROLE IF EXISTS jitaccess_owner, jitaccess_run"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        for statement in gone.split(";"):
            connection.execute(statement)
        script = (DOCKER / "postgres-roles.sh").read_text().replace("/run/secrets", str(secrets))
        environment = os.environ | {"PATH": f"{programs()}:{os.environ['PATH']}", "PGHOST": query.partition("host=")[2]}
        subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True)
        redis = Redis((secrets / "redis_password").read_text().strip()).start()
        yield server, redis
        redis.stop()
        for statement in gone.split(";"):
            connection.execute(statement)


@pytest.mark.postgresql_only
def test_the_commands_of_compose_make_an_installation(
    secrets: Path, services: tuple[str, Redis], tmp_path: Path
) -> None:
    server, redis = services
    for name, user in (("database_url", "jitaccess_run"), ("database_owner_url", "jitaccess_owner")):
        # The one thing that is different here: where the database and the broker are.
        path = secrets / name
        assert path.read_text().startswith(f"postgresql://{user}:")
        path.chmod(0o600)
        path.write_text(server.format("jitaccess").replace("//postgres@", f"//{user}@"))
    (secrets / "redis_url").chmod(0o600)
    (secrets / "redis_url").write_text(redis.url)
    running: dict[str, Process] = {}
    try:
        for name in OURS:
            running[name] = _run(name, secrets, tmp_path)
            if name == "migrate":
                assert running[name].popen.wait(60) == 0, running[name].output
                assert "jitaccess_run can run jitaccess here" in running[name].output
        for name in OURS[1:]:
            url = running[name].wait_ready().url.replace("0.0.0.0", "127.0.0.1")
            health = COMPOSE["services"][name]["healthcheck"]["test"][1:]
            probe = [COMMAND, "health", re.sub(r"http://127.0.0.1:\d+", url, health[2])]
            eventually(lambda probe=probe: subprocess.run(probe, check=False, capture_output=True).returncode == 0)
        web = running["web"].url.replace("0.0.0.0", "127.0.0.1")
        answer = httpx2.get(f"{web}/accounts/login/", headers={"host": "jit.example", "x-forwarded-proto": "https"})
        assert answer.status_code == 200
        assert "max-age=" in answer.headers["strict-transport-security"]
        assert "Secure" in answer.headers["set-cookie"]
        eventually(
            lambda: any((tmp_path / "run/jitaccess-checkpoints").glob("*")) or not _entries(server), what="signed"
        )
        checked = {name: _run(name, secrets, tmp_path, command=["check", "--deploy"]) for name in ("web", "migrate")}
        for process in checked.values():
            process.popen.wait(60)
            process.stop()
        assert checked["web"].popen.returncode == 0, checked["web"].output
        assert checked["migrate"].popen.returncode == 1
        assert "may change the ledger" in checked["migrate"].output, "the owner is told from who runs"
        secret = [path.read_text().strip() for path in secrets.glob("*") if "url" not in path.name]
        for process in running.values():
            assert not [one for one in secret if one in process.output]
    finally:
        for process in running.values():
            process.stop()
    assert [process.popen.returncode for process in running.values()] == [0] * len(OURS)


def _entries(server: str) -> int:
    with psycopg.connect(server.format("jitaccess")) as connection:
        return int(connection.execute("SELECT count(*) FROM jit_audit_entry").fetchone()[0])  # type: ignore[index]


def _run(name: str, secrets: Path, tmp_path: Path, *, command: Sequence[str] = ()) -> Process:
    """The entry point with the service's command (or another) and environment; volumes are folders here."""
    service = COMPOSE["services"][name]
    values = {key: str(value).replace("/run/secrets", str(secrets)) for key, value in service["environment"].items()}
    for key, value in values.items():
        if "${" in value:
            values[key] = re.sub(r"\$\{\w+(?::[-?][^}]*)?\}", "", value)
    values |= {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "JITACCESS_PUBLIC_URL": "https://jit.example",
        "JITACCESS_TRUSTED_PROXIES": "127.0.0.1",
        "JITACCESS_DRAIN_SECONDS": "0",
        "JITACCESS_HEALTH_PORT": str(free_port()),
        "JITACCESS_VAR": str(tmp_path / "run" / name),
        "JITACCESS_CHECKPOINTS": str(tmp_path / "run/jitaccess-checkpoints"),
        "JITACCESS_CHECKPOINT_KEYS": str(tmp_path / "run/jitaccess-keys/checkpoint_keys"),
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    if "JITACCESS_SERVERS_FILE" in values:
        values["JITACCESS_SERVERS_FILE"] = str(DOCKER / "etc/servers.json")
    command = list(command) or [str(part) for part in service["command"]]
    if "--port" in command:
        command[command.index("--port") + 1] = "0"
    return Process(command, values, program=("sh", str(DOCKER / "entrypoint.sh")))
