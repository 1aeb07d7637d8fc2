"""The loop: an agent is refused, asks, a person approves, it works, it ends, and all of it is on record."""

from __future__ import annotations

import asyncio

import pytest

from tests.installation import Installation, eventually
from tests.mcp_client import LEGACY, MODERN, connect

COMMIT = {"repo_path": ".", "message": "Remember one more thing"}
WRITES = {"git_add", "git_commit", "git_create_branch", "git_checkout", "git_reset"}
ACCESS_TOOLS = {
    "request_access", "check_request", "list_requestable", "my_access", "release_access", "cancel_request", "call_tool",
}  # fmt: skip


# The server's connection is opened in the other era once, so that bridging is really used.
@pytest.mark.parametrize(
    ("era", "server_era"),
    [
        (MODERN, "legacy"),
        pytest.param(LEGACY, "modern", marks=pytest.mark.pure),
        pytest.param(MODERN, "auto", marks=pytest.mark.pure),
    ],
)
def test_an_agent_is_refused_asks_is_approved_works_and_is_ended_on_record(
    installation: Installation, era: str, server_era: str
) -> None:
    installation.set_server_era(server_era)
    url = installation.up().url
    anna, bert, olga = (installation.sign_in(name, url) for name in ("anna", "bert", "olga"))

    async def loop() -> tuple[str, str]:
        async with connect(url, installation.ready_token, era=era) as agent:
            tools = await agent.tools()
            assert tools.keys() > WRITES | ACCESS_TOOLS | {"git_log"}
            assert {name for name, text in tools.items() if text.startswith("[LOCKED: needs approval]")} == WRITES
            log = await agent.call("git_log", repo_path=".")
            assert not log.is_error
            assert "Begin the notes" in log.content[0].text

            refused = await agent.call("git_commit", **COMMIT)
            assert refused.is_error
            assert "request_access" in refused.content[0].text
            assert refused.structured_content is None
            assert installation.commits()[0] == "Begin the notes"
            (entry,) = installation.ledger("call.denied")
            assert (entry["tool"], entry["outcome"], entry["data"]["reason_code"]) == (
                "git_commit",
                "denied",
                "no_binding",
            )
            assert entry["bindings"] == []

            asked = await agent.call("request_access", tools=["git_commit"], reason="The notes are ready", minutes=5)
            request = asked.structured_content
            assert request["status"] == "pending"
            assert request["who_can_approve"] == ["anna", "bert"]
            assert request["url"] == f"{url}/requests/{request['request_id']}/"
            again = await agent.call("git_commit", **COMMIT)
            assert request["request_id"] in again.content[0].text

            waiting = asyncio.create_task(agent.call("check_request", request_id=request["request_id"]))
            await asyncio.to_thread(people_decide, request["request_id"])
            answered = (await waiting).structured_content
            assert answered["status"] == "approved"
            assert answered["decided_by"] == "anna"

            await agent.next_change()
            assert not (await agent.tools())["git_commit"].startswith("[LOCKED")
            committed = await agent.call("git_commit", **COMMIT)
            assert not committed.is_error, committed.content[0].text
            assert installation.commits()[0] == COMMIT["message"]
            return request["request_id"], answered["grant"]["grant_id"]

    def people_decide(request_id: str) -> None:
        assert "demo-agent" in anna.get("/").text
        own = olga.decide(request_id, "approve")
        assert own.status_code == 403
        assert "own" in own.text
        assert anna.decide(request_id, "approve").status_code == 200
        second = bert.post(f"/requests/{request_id}/approve/", digest="sha256:stale")
        assert second.status_code == 409
        assert "lready approved by anna" in second.text

    request_id, grant_id = asyncio.run(loop())

    def used() -> list[dict[str, object]]:
        return [row for row in installation.ledger("call.completed") if row["tool"] == "git_commit"]

    eventually(used, what="the use is on record")
    (authorized,) = (row for row in installation.ledger("call.authorized") if row["tool"] == "git_commit")
    binding = installation.query("SELECT id FROM jit_policy_rolebinding WHERE origin = 'grant'")[0]["id"]
    assert authorized["bindings"] == [str(binding) if "-" in str(binding) else uuid_text(binding)]

    async def afterwards() -> None:
        # The grant belongs to the principal: a new token keeps it, until its time is up.
        async with connect(url, installation.ready_token, era=era) as agent:
            held = (await agent.call("my_access")).structured_content
            assert [grant["grant_id"] for grant in held["grants"]] == [grant_id]
            installation.shift_clock(301)
            late = await agent.call("git_commit", **COMMIT)
            assert late.is_error
            assert late.meta["io.jitaccess/deny"]["reason_code"] == "expired"

    asyncio.run(afterwards())
    eventually(lambda: installation.ledger("grant.expired"), what="Celery ends the grant")
    page = anna.get(f"/requests/{request_id}/").text
    for part in ("The notes are ready", "anna", "git_commit", "expired"):
        assert part in page.lower() or part in page
    eventually(
        lambda: any("olga" in line and "Time is up" in line for line in installation.processes[0].lines),
        what=lambda: installation.processes[0].output,
    )


def uuid_text(value: object) -> str:
    from uuid import UUID

    return str(UUID(str(value)))
