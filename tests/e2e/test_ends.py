"""How a grant ends: by the clock alone, given back, revoked by a person, its agent disabled. Each at the next call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.installation import Installation, eventually
from tests.mcp_client import LEGACY, MODERN, Agent, connect

ADD = {"repo_path": ".", "files": ["notes.md"]}


async def granted(installation: Installation, agent: Agent, url: str, *, minutes: int = 5) -> dict[str, Any]:
    """Ask for git_add, have anna approve it, and return the request with its grant."""
    asked = await agent.call("request_access", tools=["git_add"], reason="to stage", minutes=minutes)
    request_id = asked.structured_content["request_id"]
    anna = await asyncio.to_thread(installation.sign_in, "anna", url)
    assert (await asyncio.to_thread(anna.decide, request_id, "approve")).status_code == 200
    state = (await agent.call("check_request", request_id=request_id)).structured_content
    assert not (await agent.call("git_add", **ADD)).is_error
    return dict(state)


async def refused(agent: Agent, code: str) -> None:
    result = await agent.call("git_add", **ADD)
    assert result.is_error
    assert result.meta["io.jitaccess/deny"]["reason_code"] == code


@pytest.mark.parametrize("era", [MODERN, pytest.param(LEGACY, marks=pytest.mark.pure)])
def test_at_expires_at_the_next_call_is_refused_with_worker_and_beat_stopped(
    installation: Installation, era: str
) -> None:
    url = installation.up("--no-worker").url

    async def use() -> None:
        async with connect(url, installation.ready_token, era=era) as agent:
            await granted(installation, agent, url)
            await agent.next_change()
            installation.shift_clock(301)
            await agent.next_change()  # expiry needs no event: the clock is enough
            await refused(agent, "expired")
            held = (await agent.call("my_access")).structured_content
            assert held["grants"] == []

    asyncio.run(use())
    assert installation.ledger("grant.expired") == []
    assert installation.query("SELECT ended_at FROM jit_requests_grant") == [{"ended_at": None}]


def test_a_grant_is_given_back_by_its_agent_and_by_nobody_elses(installation: Installation) -> None:
    url = installation.up().url

    async def use() -> None:
        async with (
            connect(url, installation.ready_token, era=MODERN) as agent,
            connect(url, installation.token("--for", "olga"), era=MODERN) as other,
        ):
            grant = (await granted(installation, agent, url))["grant"]
            foreign = await other.call("release_access", grant_id=grant["grant_id"])
            assert foreign.is_error
            assert not (await agent.call("git_add", **ADD)).is_error
            released = await agent.call("release_access", grant_id=grant["grant_id"])
            assert released.structured_content["end_reason"] == "released"
            await refused(agent, "revoked")
            again = await agent.call("release_access", grant_id=grant["grant_id"])
            assert again.is_error

    asyncio.run(use())
    assert len(installation.ledger("grant.released")) == 1


def test_a_person_revokes_a_grant_on_the_request_page(installation: Installation) -> None:
    url = installation.up().url

    async def use() -> None:
        async with connect(url, installation.ready_token, era=MODERN) as agent:
            state = await granted(installation, agent, url)
            grant_id = state["grant"]["grant_id"]
            bert = await asyncio.to_thread(installation.sign_in, "bert", url)
            answer = await asyncio.to_thread(bert.post, f"/grants/{grant_id}/revoke/", reason="not needed any more")
            assert answer.status_code == 200
            assert "not needed any more" in answer.text
            await refused(agent, "revoked")

    asyncio.run(use())
    (entry,) = installation.ledger("grant.revoked")
    assert entry["user_name"] == "bert"


def test_a_disabled_agent_is_refused_at_once_and_its_grants_end(installation: Installation) -> None:
    url = installation.up().url

    async def use() -> None:
        async with connect(url, installation.ready_token, era=MODERN) as agent:
            await granted(installation, agent, url)
            installation.cli("agents", "disable", "demo-agent")
            await refused(agent, "locked_down")
            reading = await agent.call("git_log", repo_path=".")
            assert reading.is_error
            asking = await agent.call("request_access", tools=["git_commit"], reason="please")
            assert asking.is_error
            eventually(lambda: installation.ledger("grant.subject_disabled"), what="the sweep ends its grants")
            # Enabled again, the grant stays over.
            installation.cli("agents", "enable", "demo-agent")
            await refused(agent, "revoked")

    asyncio.run(use())
    assert installation.cli("agents", "token", "demo-agent").returncode == 0


@pytest.mark.pure
def test_a_cancelled_request_cannot_be_approved(installation: Installation) -> None:
    url = installation.up().url

    async def use() -> None:
        async with connect(url, installation.ready_token, era=MODERN) as agent:
            asked = await agent.call("request_access", tools=["git_add"], reason="to stage")
            request_id = asked.structured_content["request_id"]
            cancelled = await agent.call("cancel_request", request_id=request_id)
            assert cancelled.structured_content["status"] == "cancelled"
            anna = await asyncio.to_thread(installation.sign_in, "anna", url)
            late = await asyncio.to_thread(anna.decide, request_id, "approve")
            assert late.status_code == 409
            assert "cancelled" in late.text
            await refused(agent, "no_binding")

    asyncio.run(use())
    assert installation.ledger("grant.activated") == []


@pytest.mark.pure
def test_what_may_be_asked_for_says_for_how_long_and_who_decides(installation: Installation) -> None:
    url = installation.up("--no-worker").url

    async def use() -> None:
        async with connect(url, installation.token("--for", "olga"), era=MODERN) as agent:
            found = (await agent.call("list_requestable", search="commit")).structured_content["tools"]
            (commit,) = (tool for tool in found if tool["tool"] == "git_commit")
            assert commit["max_minutes"] == 240
            assert commit["decided_by"] == ["1 of reviewers"]
            assert commit["access"] == "write"

    asyncio.run(use())
