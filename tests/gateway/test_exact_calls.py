"""One exact call: asked for with its arguments, good for these and nothing else, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.catalog.models import Tool
from jitaccess.gateway.calling.call import SMALL
from requests_app.models import AccessRequest
from tests.cast import Cast
from tests.gateway.harness import DENY, Client, Served, ledger
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
COMMIT = {"repo_path": ".", "message": "release 2.4", "paths": ["a", "b"], "amend": False}


def ask(client: Client, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    calls = [{"tool": "git_commit", "arguments": arguments}]
    return client.use("request_access", calls=calls, reason="The release notes", **more)


def refusal(client: Client, arguments: dict[str, Any]) -> dict[str, Any]:
    result = client.call("git_commit", **arguments)
    assert result["isError"] is True
    return dict(result["_meta"][DENY])


@pytest.mark.parametrize("era", ["agent", "legacy"])
def test_an_exact_call_is_asked_for_approved_and_made_once(
    cast: Cast, request: pytest.FixtureRequest, era: str, sent: Sent
) -> None:
    client: Client = request.getfixturevalue(era)
    filed = ask(client, COMMIT)
    assert (filed["status"], filed["max_uses"]) == ("pending", 1)
    assert filed["calls"] == [{"tool": "git/git_commit", "arguments": COMMIT}]
    assert refusal(client, COMMIT)["pending"]["request_id"] == filed["request_id"]
    assert "pending" not in refusal(client, {**COMMIT, "amend": True}), "that would not allow this one"
    cast.approve(AccessRequest.objects.get())
    other = refusal(client, {**COMMIT, "message": "release 2.5"})
    assert (other["reason_code"], other["requestable"]) == ("other_arguments", True)
    assert refusal(client, {**COMMIT, "paths": ["b", "a"]})["reason_code"] == "other_arguments"
    assert sent() == []
    assert "isError" not in client.call("git_commit", **dict(reversed(COMMIT.items())))
    assert [call["arguments"] for call in sent()] == [COMMIT]
    assert refusal(client, COMMIT)["reason_code"] == "used_up"
    assert len(sent()) == 1


def test_numbers_go_out_as_they_were_approved_however_the_call_writes_them(
    cast: Cast, agent: Client, sent: Sent
) -> None:
    approved = {**COMMIT, "message": "3", "depth": 5, "scale": [1.5, {"zero": 0}]}
    ask(agent, approved)
    cast.approve(AccessRequest.objects.get())
    agent.call("git_commit", **{**approved, "depth": 5.0, "scale": [1.5, {"zero": -0.0}]})
    (call,) = sent()
    assert json.dumps(call["arguments"], sort_keys=True) == json.dumps(approved, sort_keys=True)


def test_many_arguments_of_an_approved_call_have_plain_numbers_too(cast: Cast, agent: Client, sent: Sent) -> None:
    agent.use("request_access", tools=["git_commit"], reason="The release notes")
    cast.approve(AccessRequest.objects.get())
    agent.call("git_commit", repo_path=".", message="x" * SMALL, scale=[5.0, 1.5, {"deep": [-0.0]}])
    (call,) = sent()
    assert json.dumps(call["arguments"]["scale"]) == '[5, 1.5, {"deep": [0]}]'


def test_the_tool_is_listed_while_one_exact_call_of_it_is_allowed(cast: Cast, agent: Client) -> None:
    ask(agent, COMMIT)
    assert agent.tools()["git_commit"].startswith("[LOCKED")
    cast.approve(AccessRequest.objects.get())
    assert not agent.tools()["git_commit"].startswith("[LOCKED")
    agent.call("git_commit", **COMMIT)
    assert agent.tools()["git_commit"].startswith("[LOCKED")


def test_a_tool_that_changed_after_the_approval_is_not_called(cast: Cast, agent: Client, sent: Sent) -> None:
    ask(agent, COMMIT)
    cast.approve(AccessRequest.objects.get())
    Tool.objects.filter(name="git_commit").update(digest="sha256:new")
    assert refusal(agent, COMMIT)["reason_code"] == "quarantined"
    Tool.objects.filter(name="git_commit").update(pin="sha256:new")
    assert refusal(agent, COMMIT)["reason_code"] != "allowed"
    assert sent() == []


def test_another_principal_cannot_use_it(cast: Cast, gateway: Served, agent: Client, sent: Sent) -> None:
    ask(agent, COMMIT)
    cast.approve(AccessRequest.objects.get())
    with gateway.client(cast, user=cast.olga) as other:
        assert refusal(other, COMMIT)["reason_code"] == "no_binding"
    assert sent() == []
    assert "isError" not in agent.call("git_commit", **COMMIT)


def test_two_at_once_in_two_processes_are_one(cast: Cast, start: Callable[..., Served], sent: Sent) -> None:
    first, second = start(), start()
    with first.client(cast) as one, second.client(cast) as other:
        ask(one, COMMIT)
        cast.approve(AccessRequest.objects.get())
        answers = race(*[lambda client=client: client.call("git_commit", **COMMIT) for client in (one, other) * 3])
    assert sum("isError" not in answer for answer in answers) == 1
    assert len(sent()) == len(ledger("call.authorized")) == 1


def test_the_ledger_names_the_digest_that_was_approved(cast: Cast, agent: Client) -> None:
    ask(agent, COMMIT)
    request = AccessRequest.objects.get()
    cast.approve(request)
    agent.call("git_commit", **COMMIT)
    (entry,) = ledger("call.authorized")
    assert json.loads(entry.data)["args_digest"] == request.parsed_items[0]["arguments"]["digest"]


def test_an_exact_call_carries_no_answers_that_were_not_approved(cast: Cast, agent: Client, sent: Sent) -> None:
    ask(agent, COMMIT)
    cast.approve(AccessRequest.objects.get())
    params = {"name": "git_commit", "arguments": COMMIT, "inputResponses": {"confirm": {"action": "accept"}}}
    result = agent.post(agent.message("tools/call", params)).json()["result"]
    assert result["_meta"][DENY]["reason_code"] == "other_arguments"
    assert sent() == []


def test_what_people_are_asked_can_be_seen_beforehand(cast: Cast, agent: Client) -> None:
    calls = [{"tool": "git_commit", "arguments": COMMIT}]
    plan = agent.use("request_access", calls=calls, reason="The release notes", dry_run=True)
    assert plan["dry_run"] is True
    (one,) = plan["requests"]
    assert (one["who_can_approve"], one["max_uses"]) == (["anna", "bert"], 1)
    assert "request_id" not in one
    assert not AccessRequest.objects.exists()
