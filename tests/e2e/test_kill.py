"""kill -9 in the middle of a stream of calls: nothing acknowledged is missing, nothing is half-done, open calls are closed."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import httpx2
import psutil

from tests.installation import Installation, eventually

BODY = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "git_status", "arguments": {"repo_path": "."}},
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "git_status",
}


def test_after_kill_nine_nothing_acknowledged_is_missing_and_open_calls_are_closed(installation: Installation) -> None:
    process = installation.up()
    token = installation.ready_token
    answered: list[str] = []
    children: list[psutil.Process] = []

    async def calls() -> None:
        async with httpx2.AsyncClient(headers=HEADERS | {"Authorization": f"Bearer {token}"}, timeout=20) as http:

            async def one(worker: int) -> None:
                with contextlib.suppress(httpx2.HTTPError):
                    for number in range(1000):
                        body = BODY | {"id": f"{worker}-{number}", "params": BODY["params"] | {"_meta": META}}
                        answer = await http.post(f"{process.url}/mcp/git", json=body)
                        assert answer.status_code == 200
                        answered.append(answer.json()["id"])

            workers = [asyncio.create_task(one(worker)) for worker in range(8)]
            while len(answered) < 50:
                await asyncio.wait(workers, timeout=0.02)
            children.extend(psutil.Process(process.popen.pid).children(recursive=True))
            process.popen.send_signal(signal.SIGKILL)
            await asyncio.gather(*workers)

    asyncio.run(calls())
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == [], "no server outlives its gateway"
    process.stop()
    authorized = {row["call"] for row in installation.ledger("call.authorized")}
    # Every call that was answered had its authorization on record before it was forwarded.
    assert len(authorized) >= len(answered)
    installation.up()
    eventually(
        lambda: not installation.query("SELECT 1 FROM jit_gateway_opencall"), within=60, what="open calls are closed"
    )
    ends = ("call.completed", "call.failed", "call.outcome_unknown", "call.not_sent")
    ended = [row["call"] for row in installation.ledger(*ends)]
    assert len(ended) == len(set(ended)), "a call ended twice"
    assert set(ended) == authorized
    eventually(lambda: not installation.query("SELECT 1 FROM jit_audit_unsequenced"), what="the ledger is in order")
    seqs = [row["seq"] for row in installation.query("SELECT seq FROM jit_audit_leaf ORDER BY seq")]
    assert seqs == list(range(1, len(installation.ledger()) + 1))
