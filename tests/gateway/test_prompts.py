"""Prompts and completions of servers of either era, for clients of either era."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jitaccess.catalog.services import register_server
from jitaccess.policy.models import ServerAccess
from jitaccess.policy.services import bind_role, save_role
from tests.cast import Cast
from tests.gateway.harness import Client, Served, data, echo, eventually, ledger, refusals, settled
from tests.gateway.library import ROLE, Library, both, each_way, one_way, running, served, upstream

__all__ = ["both", "running", "served", "upstream"]
pytestmark = pytest.mark.django_db(transaction=True)
BOUNDED = """\
kind: role
version: v1
metadata: {name: to-anna, description: Insults for Anna}
spec:
  allow:
    - servers: [git]
      prompts: [insult]
      where: args.who == "anna"
"""


def names(client: Client) -> list[str]:
    return [one["name"] for one in client.ask("prompts/list")["result"]["prompts"]]


@each_way
def test_prompts_and_completions_are_those_that_may_be_had(both: tuple[Client, Client], upstream: Library) -> None:
    for client in both:
        assert names(client) == ["greet"]
        got = client.ask("prompts/get", {"name": "greet", "arguments": {"who": "Anna"}})["result"]
        assert got["messages"][0]["content"]["text"] == "greet Anna"
        assert "error" in client.ask("prompts/get", {"name": "insult", "arguments": {"who": "Anna"}})
        ref, argument = {"type": "ref/prompt", "name": "greet"}, {"name": "who", "value": "an"}
        asked = {"ref": ref, "argument": argument, "context": {"arguments": {"tone": "kind"}}}
        found = client.ask("completion/complete", asked)["result"]
        assert found["completion"]["values"] == ["anna", "anton"]
        hidden = {"ref": ref | {"name": "insult"}, "argument": argument}
        assert "error" in client.ask("completion/complete", hidden)
        note = {"ref": {"type": "ref/resource", "uri": "memo://boats/{kind}"}, "argument": argument}
        assert client.ask("completion/complete", note)["result"]["completion"]["total"] == 2
        vault = {"ref": {"type": "ref/resource", "uri": "vault://{name}"}, "argument": argument}
        assert "error" in client.ask("completion/complete", vault)
    eventually(settled)
    assert refusals() == 6
    assert [line[:2] for line in upstream.asked("prompt")] == [["prompt", "greet"]] * 2
    completed = upstream.asked("complete")
    assert [line[2:] for line in completed[:1]] == [["an", {"tone": "kind"}]]
    assert len(completed) == 4
    kinds = [data(entry).get("kind") for entry in ledger("call.authorized")]
    assert kinds == ["prompt", "prompt", "resource"] * 2
    for event in ("call.authorized", "call.completed"):
        methods = [data(entry)["method"] for entry in ledger(event)]
        assert methods == ["prompts/get", "completion/complete", "completion/complete"] * 2


@one_way
def test_a_right_to_a_prompt_with_certain_arguments_is_for_those(
    cast: Cast, both: tuple[Client, Client], upstream: Library
) -> None:
    bind_role(role=save_role(document=BOUNDED, operator=cast.operator), agent=cast.agent, operator=cast.operator)
    for client in both:
        assert names(client) == ["greet", "insult"]
        assert "result" in client.ask("prompts/get", {"name": "insult", "arguments": {"who": "anna"}})
        error = client.ask("prompts/get", {"name": "insult", "arguments": {"who": "bert"}})["error"]
        assert "insult" in error["message"]
        ref = {"type": "ref/prompt", "name": "insult"}
        assert "result" in client.ask("completion/complete", {"ref": ref, "argument": {"name": "who", "value": "anna"}})
        assert "error" in client.ask("completion/complete", {"ref": ref, "argument": {"name": "who", "value": "be"}})
    assert [line[2]["who"] for line in upstream.asked("prompt")] == ["anna"] * 2
    assert [line[2] for line in upstream.asked("complete")] == ["anna"] * 2


@one_way
def test_requests_of_the_wrong_shape_are_refused_and_reach_nobody(
    both: tuple[Client, Client], upstream: Library
) -> None:
    argument, ref = {"name": "who", "value": "a"}, {"type": "ref/prompt", "name": "greet"}
    wrong = [
        ("prompts/get", {}), ("prompts/get", {"name": 1}), ("prompts/get", {"name": "greet", "arguments": []}),
        ("resources/read", {}), ("resources/read", {"uri": 1}), ("completion/complete", {"ref": ref}),
        ("completion/complete", {"ref": ref, "argument": {"name": "who"}}),
        ("completion/complete", {"ref": {"type": "ref/tool", "name": "x"}, "argument": argument}),
        ("completion/complete", {"ref": ref, "argument": argument, "context": {"arguments": 1}}),
    ]  # fmt: skip
    for client in both:
        for method, params in wrong:
            if client.session is None and isinstance(params.get("name") or params.get("uri"), int):
                continue  # a header cannot say that
            assert client.ask(method, params)["error"]["code"] == -32602, (method, params)
    assert not upstream.asked()


@one_way
def test_on_the_endpoint_of_all_servers_prompts_have_the_name_of_their_server(
    cast: Cast, start: Callable[..., Served], upstream: Library, record: Path
) -> None:
    other = register_server(slug="more", operator=cast.operator)
    ServerAccess.objects.create(server=other).teams.add(cast.team)
    role = ROLE.replace("[git]", "[git, more]")
    bind_role(role=save_role(document=role, operator=cast.operator), agent=cast.agent, operator=cast.operator)
    served = start({"git": upstream.config, "more": echo(record, "--exit", slug="more")})
    with served.client(cast) as client:
        client.server = ""
        assert names(client) == ["git__greet"]
        got = client.ask("prompts/get", {"name": "git__greet", "arguments": {"who": "Anna"}})["result"]
        assert got["messages"][0]["content"]["text"] == "greet Anna"
        for name in ("greet", "git__insult", "nowhere__greet", "git__"):
            assert "error" in client.ask("prompts/get", {"name": name})
        ref, argument = {"type": "ref/prompt", "name": "git__greet"}, {"name": "who", "value": "b"}
        found = client.ask("completion/complete", {"ref": ref, "argument": argument})["result"]
        assert found["completion"]["values"] == ["bert"]
        resource = {"type": "ref/resource", "uri": "memo://apples"}
        assert "error" in client.ask("completion/complete", {"ref": resource, "argument": argument})
    assert [line[1] for line in upstream.asked("prompt")] == ["greet"]
