"""Several processes on one PostgreSQL: what is decided in one is in force in the others."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

import pytest

from tests.installation import ON_POSTGRESQL, Installation, Process, eventually
from tests.mcp_client import LEGACY, MODERN, connect

pytestmark = pytest.mark.postgresql_only
ADD = {"repo_path": ".", "files": ["notes.md"]}


@pytest.fixture
def processes(installation: Installation) -> tuple[Process, Process, Process]:
    """A web process, which embeds worker and beat, and two gateways."""
    assert ON_POSTGRESQL
    web, one, two = (installation.launch(role) for role in ("web", "gateway", "gateway"))
    return web.wait_ready(), one.wait_ready(), two.wait_ready()


@pytest.mark.parametrize("era", [MODERN, LEGACY])
def test_a_revoke_binds_the_next_received_call_in_every_process(
    installation: Installation, processes: tuple[Process, Process, Process], era: str
) -> None:
    web, one, two = processes
    token = installation.ready_token

    async def use() -> None:
        async with connect(one.url, token, era=era) as here, connect(two.url, token, era=era) as there:
            asked = await here.call("request_access", tools=["git_add"], reason="to stage", minutes=5)
            request_id = asked.structured_content["request_id"]
            anna = await asyncio.to_thread(installation.sign_in, "anna", web.url)
            assert (await asyncio.to_thread(anna.decide, request_id, "approve")).status_code == 200
            state = (await there.call("check_request", request_id=request_id)).structured_content
            for agent in (here, there):
                await agent.next_change()
                assert not (await agent.call("git_add", **ADD)).is_error

            stop = asyncio.Event()
            results: list[tuple[datetime, bool]] = []

            async def stream(agent: object) -> None:
                while not stop.is_set():
                    sent = datetime.now(UTC)
                    result = await agent.call("git_add", **ADD)  # type: ignore[attr-defined]
                    results.append((sent, result.is_error))

            running = [asyncio.create_task(stream(agent)) for agent in (here, there)]
            while len(results) < 20:
                await asyncio.wait(running, timeout=0.05)
            answer = await asyncio.to_thread(anna.post, f"/grants/{state['grant']['grant_id']}/revoke/")
            revoked = datetime.now(UTC)
            assert answer.status_code == 200
            enough = len(results) + 20
            while len(results) < enough:
                await asyncio.wait(running, timeout=0.05)
            stop.set()
            await asyncio.gather(*running)
            assert any(not error for sent, error in results if sent < revoked)
            assert all(error for sent, error in results if sent > revoked)
            for agent in (here, there):
                await agent.next_change()

    asyncio.run(use())
    instances = {row["instance"] for row in installation.ledger("call.authorized")}
    assert len(instances) == 2


def test_a_session_is_good_in_any_process(
    installation: Installation, processes: tuple[Process, Process, Process]
) -> None:
    import httpx2

    _, one, two = processes
    headers = {"Authorization": f"Bearer {installation.ready_token}", "Accept": "application/json, text/event-stream"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    with httpx2.Client(headers=headers) as http:
        opened = http.post(
            f"{one.url}/mcp/git", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        )
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        listed = http.post(
            f"{two.url}/mcp/git", json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, headers=session
        )
    assert listed.status_code == 200
    assert any(tool["name"] == "git_log" for tool in listed.json()["result"]["tools"])


def test_an_open_stream_hears_of_a_decision_in_another_process_though_nobody_polls(installation: Installation) -> None:
    web = installation.start("web")
    gateway = installation.start("gateway", env={"JITACCESS_TEST_POLL_SECONDS": "3600"})
    token = installation.ready_token

    async def use() -> None:
        anna = await asyncio.to_thread(installation.sign_in, "anna", web.url)
        async with connect(gateway.url, token, era=MODERN) as agent:
            asked = await agent.call("request_access", tools=["git_add"], reason="to stage", minutes=5)
            request_id = asked.structured_content["request_id"]
            assert agent.changes.empty()
            assert (await asyncio.to_thread(anna.decide, request_id, "approve")).status_code == 200
            await agent.next_change()
            state = (await agent.call("check_request", request_id=request_id)).structured_content
            answer = await asyncio.to_thread(anna.post, f"/grants/{state['grant']['grant_id']}/revoke/")
            assert answer.status_code == 200
            await agent.next_change()

    asyncio.run(use())


def test_one_web_process_leads_and_another_takes_over_when_it_is_killed(installation: Installation) -> None:
    assert ON_POSTGRESQL
    first, second = installation.start("web"), installation.start("web")
    eventually(lambda: installation.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"))
    installation.token()
    eventually(lambda: not installation.query("SELECT 1 FROM jit_audit_unsequenced"), what="sequenced")
    first.stop(signal.SIGKILL)
    installation.token()
    eventually(lambda: not installation.query("SELECT 1 FROM jit_audit_unsequenced"), what="sequenced by the other")
    seqs = [row["seq"] for row in installation.query("SELECT seq FROM jit_audit_leaf ORDER BY seq")]
    assert seqs == list(range(1, len(seqs) + 1))
    assert second.popen.poll() is None


def test_the_processes_stop_cleanly(installation: Installation, processes: tuple[Process, Process, Process]) -> None:
    for process in processes:
        assert process.stop(signal.SIGTERM) < 5
        assert process.popen.returncode in {0, -signal.SIGTERM}
