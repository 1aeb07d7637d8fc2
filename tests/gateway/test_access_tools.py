"""Refusals that say what to do, and the access tools with which an agent does it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool, import_tools
from jitaccess.identity.services import create_agent, set_agent_enabled
from requests_app.models import AccessRequest, Grant
from requests_app.services import revoke_grant
from tests.cast import Cast, definition
from tests.clocks import Clock
from tests.gateway.harness import DENY, Client, Served, eventually, refusals, told

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]


def meta(client: Client, tool: str = "git_commit") -> dict[str, Any]:
    result = client.call(tool)
    assert result["isError"] is True
    assert "structuredContent" not in result
    return dict(result["_meta"][DENY])


def ask(client: Client, *tools: str, reason: str = "Finish the notes", **more: Any) -> dict[str, Any]:
    return client.use("request_access", tools=list(tools or ("git_commit",)), reason=reason, **more)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["agent", "legacy"])
def test_the_arguments_in_a_refusal_work_as_they_are(request: pytest.FixtureRequest, era: str, sent: Sent) -> None:
    client: Client = request.getfixturevalue(era)
    result = client.call("git_commit")
    assert result["isError"] is True
    assert "structuredContent" not in result
    deny = result["_meta"][DENY]
    assert (deny["error"], deny["tool"], deny["reason_code"], deny["requestable"]) == (
        "access_denied",
        "git_commit",
        "no_binding",
        True,
    )
    (text,) = (block["text"] for block in result["content"])
    assert json.dumps(deny["request"]["arguments"], separators=(",", ":"), ensure_ascii=False) in text
    filed = client.use(deny["request"]["tool"], **deny["request"]["arguments"])
    assert (filed["status"], filed["tools"], filed["minutes"]) == ("pending", ["git/git_commit"], 30)
    again = meta(client)
    assert again["pending"] == {"request_id": filed["request_id"], "url": filed["url"]}
    assert "request" not in again
    assert sent() == []


def test_the_suggested_minutes_are_within_the_limit(cast: Cast, agent: Client) -> None:
    cast.requestable.max_minutes = 7
    cast.requestable.save()
    suggested = meta(agent)["request"]["arguments"]
    assert suggested["minutes"] == 7
    assert agent.use("request_access", **suggested)["minutes"] == 7


def test_a_refusal_says_why(cast: Cast, agent: Client, clock: Clock, sent: Sent) -> None:
    assert meta(agent)["reason_code"] == "no_binding"
    revoke_grant(grant_id=cast.grant().pk, user=cast.anna)
    assert meta(agent)["reason_code"] == "revoked"
    grant = cast.grant()
    clock.at(grant.expires_at)
    assert meta(agent)["reason_code"] == "expired"
    assert meta(agent)["request"]["arguments"]["tools"] == ["git_commit"]
    cast.grant()
    changed = [definition(name) for name in cast.tools if name != "git_commit"] + [
        definition("git_commit", description="New")
    ]
    import_tools(server=cast.server, definitions=changed, operator=cast.operator)
    deny = meta(agent)
    assert (deny["reason_code"], deny["requestable"]) == ("quarantined", False)
    assert "git_commit" not in agent.tools()
    assert agent.call("request_access", tools=["git_commit"], reason="x")["_meta"][DENY]["error"] == "tool.quarantined"
    set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
    assert meta(agent)["reason_code"] == "locked_down"
    assert sent() == []
    assert refusals() == 6
    assert told() == ["call.denied"] * 5, "the same refusal within a minute is counted"


def test_a_request_past_its_deadline_is_pending_no_more(cast: Cast, agent: Client, clock: Clock) -> None:
    cast.change_policy(pending="5m")
    filed = ask(agent)
    clock.at(AccessRequest.objects.get().pending_until)
    assert "pending" not in meta(agent)
    assert agent.use("my_access")["pending"] == []
    state = agent.use("check_request", request_id=filed["request_id"])
    assert state["status"] == "expired"
    assert ask(agent)["request_id"] != filed["request_id"]


def test_a_deny_rule_and_hidden_tools_give_no_advice(cast: Cast, agent: Client) -> None:
    cast.requestable.delete()
    answer = agent.ask("tools/call", {"name": "git_commit", "arguments": {}})
    assert answer["error"] == {"code": -32602, "message": "Unknown tool: git_commit"}


# -- request_access ---------------------------------------------------------------------------------------------------


def test_a_request_is_filed_for_the_caller_with_everything_people_need(cast: Cast, agent: Client) -> None:
    filed = ask(agent, "git_commit", "git__git_add", minutes=5, context={"ticket": "A-1", "plan": ["x"]})
    row = AccessRequest.objects.get()
    assert (row.agent, row.user, row.issued_by, row.seconds, row.client) == (cast.agent, None, None, 300, "tests/1")
    assert json.loads(row.context) == {"ticket": "A-1", "plan": ["x"]}
    assert filed == {
        "request_id": str(row.pk), "status": "pending", "tools": ["git/git_add", "git/git_commit"], "minutes": 5,
        "url": row.url, "who_can_approve": ["anna", "bert"], "pending_until": row.pending_until.isoformat(),
        "approvals": [{"stage": 0, "group": "reviewers", "needed": 1, "given": 0}], "poll": {"tool": "check_request", "after_seconds": 5},
    }  # fmt: skip
    assert ask(agent, "git_add", "git_commit", minutes=5)["request_id"] == filed["request_id"]
    assert AccessRequest.objects.count() == 1


def test_mistakes_are_answered_with_what_to_change(agent: Client, sent: Sent) -> None:
    good = {"tools": ["git_commit"], "reason": "x"}
    for changes, code, words in (
        ({"tools": []}, "request.tools", "tools"),
        ({"tools": "git_commit"}, "arguments.invalid", "tools"),
        ({"tools": ["git_commit"] * 51}, "arguments.invalid", "50"),
        ({"tools": [1]}, "arguments.invalid", "tools"),
        ({"reason": ""}, "request.reason", "why"),
        ({"reason": " \n"}, "request.reason", "why"),
        ({"reason": "x" * 2001}, "request.reason", "2000"),
        ({"reason": 1}, "arguments.invalid", "reason"),
        ({"minutes": 0}, "arguments.invalid", "minutes"),
        ({"minutes": -5}, "arguments.invalid", "minutes"),
        ({"minutes": "5"}, "arguments.invalid", "minutes"),
        ({"minutes": True}, "arguments.invalid", "minutes"),
        ({"minutes": 241}, "request.duration", "4 h"),
        ({"minutes": 2**53 - 1}, "request.duration", "4 h"),
        ({"context": []}, "arguments.invalid", "context"),
        ({"context": {"a": "x" * 4000}}, "request.context", "4000"),
        ({"who": "admin"}, "arguments.invalid", "who"),
        ({"agent": "other"}, "arguments.invalid", "agent"),
        ({"tools": ["git_log"]}, "request.already_allowed", "already"),
        ({"tools": ["nothing"]}, "request.unknown_tool", "list_requestable"),
        ({"tools": ["files__x"]}, "request.unknown_tool", "list_requestable"),
    ):
        result = agent.call("request_access", **(good | changes))
        assert result["isError"], changes
        assert result["_meta"][DENY]["error"] == code, (changes, result)
        assert words in result["content"][0]["text"], (changes, result)
        assert "structuredContent" not in result
    for tool, arguments in (
        ("check_request", {}), ("check_request", {"request_id": 1}), ("check_request", {"request_id": "x", "wait_seconds": 26}),
        ("check_request", {"request_id": "x", "wait_seconds": -1}), ("my_access", {"agent": "x"}), ("list_requestable", {"q": 1}),
        ("release_access", {}), ("cancel_request", {"request_id": None}),
    ):  # fmt: skip
        assert agent.call(tool, **arguments)["_meta"][DENY]["error"] == "arguments.invalid", (tool, arguments)
    assert not AccessRequest.objects.exists()
    assert sent() == []


# -- check_request ----------------------------------------------------------------------------------------------------


def later(work: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(("verdict", "said"), [("approve", "Approved by anna"), ("deny", "Denied by anna")])
def test_waiting_ends_when_somebody_decides(cast: Cast, agent: Client, verdict: str, said: str) -> None:
    filed = ask(agent, minutes=5)
    decide = cast.approve if verdict == "approve" else cast.deny
    answers: list[dict[str, Any]] = []
    waiting = later(
        lambda: answers.append(agent.call("check_request", request_id=filed["request_id"], wait_seconds=25))
    )
    started = time.monotonic()
    decide(AccessRequest.objects.get())
    waiting.join(10)
    assert time.monotonic() - started < 5
    (answer,) = answers
    assert said in answer["content"][0]["text"]
    state = answer["structuredContent"]
    assert state["decided_by"] == "anna"
    if verdict == "approve":
        assert state["grant"]["state"] == "active"
        assert 295 <= state["grant"]["seconds_left"] <= 300
        assert "content" in agent.call("git_commit")
    else:
        assert "grant" not in state
        assert agent.refusal("git_commit") == "no_binding"


def test_waiting_in_vain_is_no_denial(agent: Client) -> None:
    filed = ask(agent)
    for seconds in (0, 1):
        result = agent.call("check_request", request_id=filed["request_id"], wait_seconds=seconds)
        assert not result["isError"]
        assert result["structuredContent"]["status"] == "pending"
        assert "not a denial" in result["content"][0]["text"]


def test_waiting_ends_when_the_gateway_stops(cast: Cast, gateway: Served, agent: Client) -> None:
    filed = ask(agent)
    answers: list[dict[str, Any]] = []
    waiting = later(lambda: answers.append(agent.use("check_request", request_id=filed["request_id"])))
    assert eventually(lambda: gateway.gateway.in_flight)
    started = time.monotonic()
    gateway.stop()
    waiting.join(10)
    assert time.monotonic() - started < 5
    assert answers[0]["status"] == "pending"


def test_states_after_the_end(cast: Cast, agent: Client, clock: Clock) -> None:
    filed = ask(agent, minutes=1)
    cast.approve(AccessRequest.objects.get())
    state = agent.use("check_request", request_id=filed["request_id"])
    assert state["grant"]["state"] == "active"
    clock.shift(61)
    state = agent.use("check_request", request_id=filed["request_id"])
    assert (state["status"], state["grant"]["state"], state["grant"]["end_reason"]) == ("approved", "ended", "expired")
    second = ask(agent, minutes=2)
    Tool.objects.filter(name="git_commit").update(access="read")
    with pytest.raises(Exception, match="changed"):
        cast.approve(AccessRequest.objects.get(pk=second["request_id"]))
    assert agent.use("check_request", request_id=second["request_id"])["status"] == "invalidated"


# -- the others -------------------------------------------------------------------------------------------------------


def test_what_may_be_asked_for_is_what_is_locked(cast: Cast, agent: Client) -> None:
    found = agent.use("list_requestable")
    assert found["server"] == "git"
    assert {tool["tool"]: tool["access"] for tool in found["tools"]} == {
        "git_add": "write", "git_commit": "write", "git_reset": "destructive",
    }  # fmt: skip
    assert found["tools"][0] | {"tool": 0} == {
        "tool": 0, "access": "write", "description": "The tool git_add", "max_minutes": 240, "decided_by": ["1 of reviewers"],
    }  # fmt: skip
    assert [tool["tool"] for tool in agent.use("list_requestable", search="RESET")["tools"]] == ["git_reset"]
    assert agent.use("list_requestable", search="log")["tools"] == []
    cast.grant("git_reset")
    assert "git_reset" not in [tool["tool"] for tool in agent.use("list_requestable")["tools"]]


def test_my_access_is_what_the_list_shows(cast: Cast, agent: Client, clock: Clock) -> None:
    mine = agent.use("my_access")
    assert mine == {
        "you": "demo-agent", "server": "git", "allowed": ["git_log", "git_status"],
        "locked": ["git_add", "git_commit", "git_reset"], "grants": [], "pending": [],
    }  # fmt: skip
    grant = cast.grant(seconds=600)
    waiting = ask(agent, "git_add")
    mine = agent.use("my_access")
    assert mine["allowed"] == ["git_commit", "git_log", "git_status"]
    assert [(one["grant_id"], one["state"], one["tools"]) for one in mine["grants"]] == [
        (str(grant.pk), "active", ["git/git_commit"])
    ]
    assert [one["request_id"] for one in mine["pending"]] == [waiting["request_id"]]
    clock.at(grant.expires_at)
    mine = agent.use("my_access")
    assert (mine["grants"], mine["allowed"]) == ([], ["git_log", "git_status"])


def test_what_is_given_back_is_over_at_once(cast: Cast, agent: Client, sent: Sent) -> None:
    grant = cast.grant()
    assert "content" in agent.call("git_commit")
    assert agent.use("release_access", grant_id=str(grant.pk))["end_reason"] == "released"
    assert agent.refusal("git_commit") == "revoked"
    assert agent.refusal("release_access", grant_id=str(grant.pk)) == "grant.ended"
    assert len(sent()) == 1
    assert "grant.released" in told("grant.")


def test_a_request_can_be_withdrawn_once(cast: Cast, agent: Client) -> None:
    filed = ask(agent)
    assert agent.use("cancel_request", request_id=filed["request_id"])["status"] == "cancelled"
    assert agent.refusal("cancel_request", request_id=filed["request_id"]) == "request.already_decided"
    assert agent.use("check_request", request_id=filed["request_id"])["status"] == "cancelled"


def test_what_belongs_to_others_is_answered_as_unknown(cast: Cast, gateway: Served, agent: Client) -> None:
    filed, grant = ask(agent), cast.grant("git_add")
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    with gateway.client(cast, agent=other) as stranger, gateway.client(cast, user=cast.olga) as delegated:
        for somebody in (stranger, delegated):
            for tool, member, foreign in (
                ("check_request", "request_id", filed["request_id"]),
                ("cancel_request", "request_id", filed["request_id"]),
                ("release_access", "grant_id", str(grant.pk)),
            ):
                real = somebody.call(tool, **{member: foreign})
                invented = somebody.call(tool, **{member: (unknown := str(uuid4()))})
                assert real["isError"]
                assert json.dumps(real).replace(foreign, "ID") == json.dumps(invented).replace(unknown, "ID")
            assert somebody.use("my_access")["grants"] == somebody.use("my_access")["pending"] == []
            assert somebody.refusal("git_add") == "no_binding"
            assert "pending" not in meta(somebody)
    for text in ("", "x", "1", filed["request_id"][:-1], "../" + filed["request_id"]):
        assert agent.refusal("check_request", request_id=text) == "request.unknown"
        assert agent.refusal("release_access", grant_id=text) == "grant.unknown"
    assert AccessRequest.objects.get(pk=filed["request_id"]).status == "pending"
    assert Grant.objects.get(pk=grant.pk).ended_at is None


def test_a_grant_belongs_to_the_principal_and_not_to_its_token(cast: Cast, gateway: Served, sent: Sent) -> None:
    grant = cast.grant(principal=cast.principal(user=cast.olga))
    with (
        gateway.client(cast, user=cast.olga) as first,
        gateway.client(cast, user=cast.olga) as second,
        gateway.client(cast) as alone,
    ):
        assert "content" in first.call("git_commit")
        assert "content" in second.call("git_commit")
        assert alone.refusal("git_commit") == "no_binding"
        assert second.use("release_access", grant_id=str(grant.pk))
        assert first.refusal("git_commit") == "revoked"
    assert len(sent()) == 2


def test_a_reviewed_tool_is_usable_at_once(cast: Cast, agent: Client) -> None:
    tool = cast.tools["git_commit"]
    assert agent.refusal("git_commit") == "no_binding"
    classify_tool(tool=tool, access=AccessClass.READ, operator=cast.operator)
    assert "content" in agent.call("git_commit")
