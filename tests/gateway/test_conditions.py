"""What a role asks of a call is asked of the very call that reaches the gateway, before anything reaches a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.policy.locks import lock
from jitaccess.policy.services import bind_role, save_role
from tests.cast import OPERATOR, Cast
from tests.gateway.harness import DENY, Client, data, ledger

pytestmark = pytest.mark.django_db(transaction=True)
CAREFUL = """\
kind: role
version: v1
metadata: {name: careful}
spec:
  allow:
    - servers: [git]
      tools: [git_commit]
      where: args.message.startsWith("fix")
    - servers: [git]
      tools: [git_add]
      arguments: {mode: exact, value: {path: a, force: false}}
  deny:
    - servers: [git]
      tools: [git_commit]
      where: args.message.contains("secret")
"""


def test_conditions_and_constraints_are_about_the_very_call(
    cast: Cast, agent: Client, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    cast.requestable.delete()
    bind_role(role=save_role(document=CAREFUL, operator=OPERATOR), agent=cast.agent, operator=OPERATOR)
    assert not agent.tools()["git_commit"].startswith("[LOCKED")
    assert "content" in agent.call("git_commit", message="fix it")
    assert "content" in agent.call("git_add", force=False, path="a")
    allowed = len(sent())
    assert allowed == 2
    for tool, arguments in (
        ("git_commit", {"message": "break it"}),
        ("git_commit", {"message": "fix the secret"}),
        ("git_commit", {"message": ["fix"]}),
        ("git_commit", {"message": "fix" + "x" * 20_000}),
        ("git_commit", {}),
        ("git_add", {"path": "a", "force": True}),
        ("git_add", {}),
    ):
        answer = agent.call(tool, **arguments)
        assert answer["_meta"][DENY]["reason_code"] == "other_arguments", arguments
        assert answer["_meta"][DENY]["requestable"] is False
    assert len(sent()) == allowed, "nothing of what was refused reached the server"
    rules = {data(entry)["rule"] for entry in ledger("call.denied")}
    assert 'role careful@1, allow rule 1: the condition args.message.startsWith("fix") is false' in rules


def test_a_role_that_may_be_asked_for_is_named_in_the_refusal(cast: Cast, agent: Client) -> None:
    cast.requestable.delete()
    asked = (
        CAREFUL.split("  deny:", maxsplit=1)[0] + "  request: {max_duration: 1h, approval: " + cast.policy.name + "}\n"
    )
    save_role(document=asked, operator=OPERATOR)
    assert agent.tools()["git_commit"].startswith("[LOCKED")
    deny = agent.call("git_commit", message="fix it")["_meta"][DENY]
    assert (deny["reason_code"], deny["requestable"]) == ("no_binding", True)
    assert deny["request"]["arguments"]["roles"] == ["careful"]


def test_a_lock_stops_the_next_call(cast: Cast, agent: Client) -> None:
    assert "content" in agent.call("git_log")
    lock(kind="server", target=cast.server.pk, reason="odd", operator=OPERATOR)
    assert agent.call("git_log")["_meta"][DENY]["reason_code"] == "locked_down"
