"""Somebody sets the clock of the machine that the server runs on, while it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests import installation as installations
from tests.installation import Installation, Person, Process, eventually
from tests.jumping_host import FILE, obeyed, write_launcher
from tests.mcp_client import MODERN, connect

HOUR = 3600
# The machine is always two hours ahead of the installation's first start: after a jump back what was set up then still
# has begun. On PostgreSQL it is simply wrong all the time.
AHEAD = 2 * HOUR


class Host:
    """An installation on a machine whose clock can be set, for the running server and for commands alike."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.installation = installation
        self._file = folder / "host-clock"
        self._file.write_text(str(AHEAD))
        installation.environment[FILE] = str(self._file)
        self.server: Process = installation.up()
        self.url = self.server.url

    def jumps(self, seconds: int) -> None:
        """Set it, relative to what it was at the start."""
        wanted = float(AHEAD + seconds)
        draft = self._file.with_suffix(".draft")
        draft.write_text(str(wanted))
        draft.replace(self._file)
        told = obeyed(self._file, self.server.popen.pid)
        eventually(lambda: told.exists() and told.read_text() == str(wanted), what="the clock of the server jumps")

    def call(self, token: str, tool: str, **arguments: Any) -> Any:
        async def once() -> Any:
            async with connect(self.url, token, era=MODERN) as agent:
                return await agent.call(tool, **arguments)

        return asyncio.run(once())

    def branch(self, token: str, name: str) -> Any:
        """A call that needs an approval."""
        return self.call(token, "git_create_branch", repo_path=".", branch_name=name)

    def grant(self, token: str, approver: Person, *, minutes: int) -> None:
        asked = self.call(token, "request_access", tools=["git_create_branch"], reason="To try it", minutes=minutes)
        assert approver.decide(asked.structured_content["request_id"], "approve").status_code == 200

    def told(self) -> list[tuple[str, int]]:
        """What the ledger tells of clocks, in its order."""
        rows = self.installation.query(
            "SELECT e.uid FROM jit_audit_leaf l JOIN jit_audit_entry e ON e.uid = l.entry_id "
            "WHERE e.event LIKE 'clock.%' ORDER BY l.seq"
        )
        entries = {row["uid"]: row for row in self.installation.ledger("clock.jumped", "clock.accepted")}
        return [(entries[row["uid"]]["event"], round(entries[row["uid"]]["data"]["seconds"])) for row in rows]


@pytest.fixture
def host(installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(installations, "COMMAND", write_launcher(tmp_path / "jitaccess"))
    return Host(installation, tmp_path)


def reason(result: Any) -> str:
    """Why a call was refused, "" when it was not."""
    return str(result.meta["io.jitaccess/deny"]["reason_code"]) if result.is_error else ""


@pytest.mark.pure
def test_calls_are_refused_until_an_operator_accepts_the_clock(host: Host) -> None:
    """On SQLite, which has no clock of its own: forward, and back again."""
    installation = host.installation
    assert reason(host.call(installation.token(), "git_log", repo_path=".")) == ""
    quiet = installation.cli("clock", "status")
    assert "No jump is open." in quiet.stdout
    for place, (to, way) in enumerate(((HOUR, "forward"), (0, "back"))):
        host.jumps(to)
        _refused_until_accepted(host, way, before=place)
    again = installation.cli("clock", "accept", check=False)
    assert (again.returncode, again.stdout) == (1, "")

    told = [(f"clock.{what}", seconds) for seconds in (HOUR, -HOUR) for what in ("jumped", "accepted")]
    eventually(lambda: len(host.told()) == len(told), what="all are on record")
    assert host.told() == told
    for entry in installation.ledger("clock.accepted"):
        assert entry["user_name"].startswith("operator:")
    assert "Intact" in installation.cli("audit", "verify").stdout


def _refused_until_accepted(host: Host, way: str, *, before: int) -> None:
    """After the clock went `way` by an hour; so many jumps were accepted `before`."""
    installation = host.installation
    authorized = len(installation.ledger("call.authorized"))
    token = installation.token()
    result = host.call(token, "git_log", repo_path=".")
    assert reason(result) == "clock_jumped"
    assert "until an operator accepts it" in result.content[0].text
    denied = installation.ledger("call.denied")
    assert [entry["data"]["reason_code"] for entry in denied] == ["clock_jumped"] * (before + 1)
    assert len(installation.ledger("call.authorized")) == authorized, "only those before"

    status = installation.cli("clock", "status", check=False)
    assert status.returncode == 1
    assert f"went {way} by 1:00:00" in status.stdout
    accepted = installation.cli("clock", "accept")
    assert "by 1:00:00" in accepted.stdout
    assert "Accepted." in accepted.stdout
    assert reason(host.call(token, "git_log", repo_path=".")) == ""
    assert installation.cli("clock", "status").returncode == 0


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
@pytest.mark.postgresql_only
def test_with_a_clock_of_the_database_no_jump_of_a_host_changes_an_answer(host: Host, seconds: int) -> None:
    installation = host.installation
    token, anna = installation.token(), installation.sign_in("anna", host.url)
    assert reason(host.branch(token, "never")) == "no_binding"
    host.jumps(seconds)
    assert reason(host.branch(token, "never")) == "no_binding"
    if seconds == HOUR:  # what the commands say is the same either way
        assert "The clock of the database decides" in installation.cli("clock", "status").stdout
        refused = installation.cli("clock", "accept", check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "PostgreSQL" in refused.stderr
    assert reason(host.call(token, "git_log", repo_path=".")) == "", "the token is good for as long as it was"
    assert "Sign out" in anna.get("/").text, "a session too"
    host.grant(token, anna, minutes=5)
    assert reason(host.branch(token, "granted-after")) == ""
    host.jumps(-seconds)
    assert reason(host.branch(token, "granted-before")) == "", "it does not end early"
    assert installation.ledger("grant.expired") == []
    installation.shift_clock(180)
    assert reason(host.branch(token, "last")) == ""
    installation.shift_clock(302)
    assert reason(host.branch(token, "too-late")) == "expired", "nor live longer"
    eventually(lambda: installation.ledger("grant.expired"), what="it is tidied up")
    assert installation.ledger("clock.jumped", "clock.accepted") == []
    assert "Intact" in installation.cli("audit", "verify").stdout
