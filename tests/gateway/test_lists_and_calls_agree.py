"""What the list shows and what a call gets are one decision: held to it on random policies, through the running gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.gateway.builtin.definitions import NAMES
from jitaccess.policy.models import RoleBinding
from jitaccess.policy.services import bind_role, end_binding, save_role
from requests_app.models import Grant
from requests_app.services import filing, revoke_grant
from tests.cast import Cast
from tests.gateway.harness import DENY, Client, Served, refusals

pytestmark = pytest.mark.django_db(transaction=True)
TOOLS = ("git_log", "git_status", "git_commit", "git_add", "git_reset")
PATTERNS = ("git_*", "git_log", "*_add", "git_reset", "^git_(commit|add)$", "none")


def shuffle(cast: Cast, random: Random, number: int) -> None:
    """Another small policy: roles with allow and deny rules, grants, quarantine, classes, what may be asked for."""
    for binding in RoleBinding.objects.filter(origin="standing", ended_at=None):
        end_binding(binding=binding, operator=cast.operator)
    for grant in Grant.objects.filter(ended_at=None):
        revoke_grant(grant_id=grant.pk, user=cast.anna)
    for tool in cast.tools.values():
        pin = tool.digest if random.random() < 0.85 else random.choice(["", "sha256:other"])
        Tool.objects.filter(pk=tool.pk).update(
            pin=pin, access=random.choice(AccessClass.values), present=random.random() < 0.93
        )
    cast.requestable.tools = random.choice(["", "git_*", "git_commit, git_add", "*_reset"])
    cast.requestable.access = random.choice(["write, destructive", "write", "destructive, unclassified", "read"])
    cast.requestable.save()
    for place in range(random.randint(0, 2)):
        rules = "\n".join(
            f"  {kind}:\n    - {{servers: ['*'], tools: ['{random.choice(PATTERNS)}']}}"
            for kind in random.sample(["allow", "deny"], random.choice([1, 1, 2]))
        )
        document = f"kind: role\nversion: v1\nmetadata: {{name: r{number}-{place}}}\nspec:\n{rules}\n"
        whose = random.choice([{"agent": cast.agent}, {"user": cast.olga}, {"team": cast.team}, {"everyone": "agents"}])
        bind_role(role=save_role(document=document, operator=cast.operator), operator=cast.operator, **whose)
    principals = [cast.principal(), cast.principal(user=cast.olga)]
    for tool in random.sample(TOOLS, random.randint(0, 2)):
        principal = random.choice(principals)
        if cast.verdict(tool, principal).requestable:
            cast.grant(tool, principal=principal)


def test_visible_is_callable_locked_is_requestable_and_hidden_is_unknown(
    cast: Cast, gateway: Served, sent: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filing, "MAX_FILINGS_PER_HOUR", 1000)  # this agent asks more than any other
    random, seen, calls = Random(20260728), {"visible": 0, "locked": 0, "hidden": 0}, 0
    with gateway.client(cast) as alone, gateway.client(cast, user=cast.olga) as delegated:
        delegated.initialize()
        for number in range(22):
            shuffle(cast, random, number)
            for client in (alone, delegated):
                listed = {name: text for name, text in client.tools().items() if name not in NAMES}
                asked = {tool["tool"] for tool in client.use("list_requestable")["tools"]}
                mine = client.use("my_access")
                if asked:
                    filed = client.use("request_access", tools=sorted(asked), reason="x", minutes=1)
                    client.use("cancel_request", request_id=filed["request_id"])
                for tool in TOOLS:
                    text = listed.get(tool)
                    state = "hidden" if text is None else "locked" if text.startswith("[LOCKED") else "visible"
                    seen[state] += 1
                    calls += _agrees(client, tool, state, through=random.random() < 0.4)
                    assert (tool in asked) is (state == "locked"), (number, tool, state)
                    found = client.use("list_requestable", search=tool.upper())["tools"] if number % 4 == 0 else []
                    assert {one["tool"] for one in found} <= {tool} & asked
                    assert (tool in mine["allowed"], tool in mine["locked"]) == (state == "visible", state == "locked")
                _nowhere(client, set(TOOLS) - set(listed))
    assert sum(seen.values()) == 220
    assert min(seen.values()) > 20, seen
    assert len(sent()) == calls == seen["visible"]
    assert refusals() == seen["locked"] + seen["hidden"]


def _nowhere(client: Client, hidden: set[str]) -> None:
    """No method tells of what is hidden."""
    said = [json.dumps(client.call(tool)) for tool in ("list_requestable", "my_access")]
    said.append(client.post(client.message("tools/list", {})).text)
    said.append(client.post(client.message("ping" if client.session else "server/discover", {})).text)
    assert not [(tool, text) for tool in hidden for text in said if f'{tool}"' in text]


def _agrees(client: Client, tool: str, state: str, *, through: bool) -> bool:
    """Call the tool, or have it called `through` call_tool; ask for it if it is hidden. Whether the call was allowed."""
    plain = {"name": tool, "arguments": {}}
    answer = client.ask("tools/call", {"name": "call_tool", "arguments": plain} if through else plain)
    result = answer.get("result")
    deny = result.get("_meta", {}).get(DENY) if result else None
    if state == "visible":
        assert result is not None
        assert deny is None, deny
        return True
    if state == "locked":
        assert deny is not None
        assert deny["requestable"] is True
        return False
    if deny is None:
        assert answer["error"] == {"code": -32602, "message": f"Unknown tool: {tool}"}
    else:
        assert (deny["reason_code"], deny["requestable"]) == ("quarantined", False)
    assert client.call("request_access", tools=[tool], reason="x")["isError"]
    return False
