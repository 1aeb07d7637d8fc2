"""Resources of servers of either era, for clients of either era: what is listed is what may be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.policy.services import bind_role, save_role
from tests.cast import Cast
from tests.gateway.harness import Client, Served, data, echo, eventually, ledger, refusals, settled
from tests.gateway.library import Library, both, each_way, one_way, running, served, upstream

__all__ = ["both", "running", "served", "upstream"]
pytestmark = pytest.mark.django_db(transaction=True)
ALL = ["memo://apples", "memo://boats", "memo://cats", "memo://salaries"]


def listed(client: Client) -> tuple[list[str], int]:
    """The URIs of all pages, and how many pages there are."""
    found, pages, params = [], 0, {}
    while True:
        result = client.ask("resources/list", params)["result"]
        found += [one["uri"] for one in result["resources"]]
        pages += 1
        if "nextCursor" not in result:
            return found, pages
        params = {"cursor": result["nextCursor"]}


@each_way
def test_what_is_listed_is_what_may_be_read_in_all_eras(both: tuple[Client, Client], upstream: Library) -> None:
    for client in both:
        assert listed(client) == (["memo://apples", "memo://boats"], 2)
        for uri in ALL:
            answer = client.ask("resources/read", {"uri": uri})
            if uri in {"memo://apples", "memo://boats"}:
                assert answer["result"]["contents"][0]["text"] == f"About {uri.removeprefix('memo://')}"
            else:
                assert answer["error"]["code"] in {-32602, -32002}
    eventually(settled)
    # What was refused never reached the server, and everything is on record.
    assert upstream.asked("read") == [["read", uri] for _ in both for uri in ALL[:2]]
    recorded = [(entry.event, entry.tool, data(entry).get("kind")) for entry in ledger("call.authorized")]
    assert recorded == [("call.authorized", uri, "resource") for _ in both for uri in ALL[:2]]
    assert refusals() == 4


@one_way
def test_another_spelling_reaches_no_server_and_every_refused_one_is_on_record(
    both: tuple[Client, Client], upstream: Library
) -> None:
    spellings = ["MEMO://apples", "memo://x/../apples", "memo://%61pples", "memo://apples#a"]
    client = both[0]
    assert "error" in client.ask("tools/call", {"name": "no_such_tool", "arguments": {}})
    for uri in spellings:
        assert client.ask("resources/read", {"uri": uri})["error"]["code"] in {-32602, -32002}
    assert upstream.asked("read") == []
    assert [entry.tool for entry in ledger("call.denied")][1:] == spellings


@one_way
def test_an_unknown_resource_looks_like_one_that_may_not_be_read(both: tuple[Client, Client]) -> None:
    for client in both:
        secret = client.ask("resources/read", {"uri": "memo://salaries"})["error"]
        nothing = client.ask("resources/read", {"uri": "memo://nothing"})["error"]
        assert secret["code"] == nothing["code"]
        assert str(secret).replace("salaries", "nothing") == str(nothing)


def test_members_are_those_of_the_clients_era(both: tuple[Client, Client]) -> None:
    modern, legacy = both
    for method, params in (("resources/list", {}), ("resources/templates/list", {}), ("prompts/list", {}),
                           ("resources/read", {"uri": "memo://apples"})):  # fmt: skip
        result = modern.ask(method, params)["result"]
        assert result["resultType"] == "complete"
        assert result["cacheScope"] == "private"
        assert 0 <= result["ttlMs"] <= 30_000
        assert not {"resultType", "ttlMs", "cacheScope"} & legacy.ask(method, params)["result"].keys()


@one_way
def test_templates_are_listed_when_something_of_them_may_be_readable(both: tuple[Client, Client]) -> None:
    for client in both:
        templates = client.ask("resources/templates/list")["result"]["resourceTemplates"]
        assert [one["uriTemplate"] for one in templates] == ["memo://{name}"]


def test_capabilities_are_what_the_server_announces_and_we_carry(
    both: tuple[Client, Client], served: Served, cast: Cast
) -> None:
    modern, _ = both
    announced = modern.ask("server/discover")["result"]["capabilities"]
    assert announced == {
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "prompts": {"listChanged": True},
        "completions": {},
    }
    with served.client(cast) as old:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        assert old.post(old.message("initialize", params)).json()["result"]["capabilities"] == announced


@one_way
def test_a_cursor_is_good_for_whom_and_what_it_was_given_only(
    both: tuple[Client, Client], served: Served, cast: Cast
) -> None:
    modern, _ = both
    cursor = modern.ask("resources/list")["result"]["nextCursor"]
    assert cursor != "2"
    with served.client(cast, user=cast.olga) as other:
        for client, method, said in ((other, "resources/list", cursor), (modern, "prompts/list", cursor),
                                     (modern, "resources/list", "2"), (modern, "resources/list", 2)):  # fmt: skip
            assert client.ask(method, {"cursor": said})["error"]["code"] == -32602
    assert "result" in modern.ask("resources/list", {"cursor": cursor})


@one_way
def test_a_right_to_a_resource_that_ends_ends_list_and_read_at_once(cast: Cast, both: tuple[Client, Client]) -> None:
    deny = "kind: role\nversion: v1\nmetadata: {name: no-boats, description: x}\nspec: {deny: [{servers: [git], resources: ['memo://boats*']}]}\n"
    bind_role(role=save_role(document=deny, operator=cast.operator), agent=cast.agent, operator=cast.operator)
    for client in both:
        assert listed(client)[0] == ["memo://apples"]
        assert "error" in client.ask("resources/read", {"uri": "memo://boats"})


@one_way
def test_on_the_endpoint_of_all_servers_no_resources_are_offered(both: tuple[Client, Client]) -> None:
    modern, _ = both
    listed(modern)
    modern.server = ""
    assert modern.ask("server/discover")["result"]["capabilities"].keys() == {"tools", "prompts", "completions"}
    for method in ("resources/list", "resources/templates/list", "resources/read"):
        answer = modern.post(
            modern.message(method, {"uri": "memo://apples"}) if method.endswith("read") else modern.message(method)
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


def test_a_server_that_cannot_be_asked_is_a_clear_error_and_no_wait(
    cast: Cast, start: Callable[..., Served], record: Any
) -> None:
    with start({"git": echo(record, "--exit")}).client(cast) as agent:
        for method in ("resources/list", "prompts/list"):
            error = agent.ask(method)["error"]
            assert error["code"] == -32603
            assert "git" in error["message"]
        assert agent.ask("server/discover")["result"]["ttlMs"] <= 5000
