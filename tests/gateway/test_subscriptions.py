"""Who hears that a resource or a list changed: exactly those who asked and may read it, for as long as they may."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.gateway.seeing import subscribing, watches
from jitaccess.identity.services import create_agent
from jitaccess.policy.models import RoleBinding
from jitaccess.policy.services import bind_role, end_binding
from tests.cast import Cast
from tests.gateway.harness import Client, Served, Stream, data, eventually, ledger, refusals, settled
from tests.gateway.library import Library, both, each_way, one_way, running, served, upstream

__all__ = ["both", "running", "served", "upstream"]
pytestmark = pytest.mark.django_db(transaction=True)
UPDATED = "notifications/resources/updated"


def updates(stream: Stream, *, within: float = 10) -> str:
    event = stream.next(within=within)
    assert event["method"] == UPDATED, event
    return str(event["params"]["uri"])


def open_streams(served: Served, count: int) -> None:
    eventually(lambda: len(served.gateway.streams) == count)


@each_way
def test_updates_reach_those_who_subscribed_and_the_server_is_asked_once(
    both: tuple[Client, Client], upstream: Library, served: Served
) -> None:
    modern, legacy = both
    wanted = ["memo://apples", "memo://salaries", "memo://boats"]
    with modern.listen(resourceSubscriptions=wanted) as first, legacy.listen() as second:
        open_streams(served, 2)
        honoured = first.acknowledged["params"]["notifications"]["resourceSubscriptions"]
        assert honoured == ["memo://apples", "memo://boats"]
        assert legacy.ask("resources/subscribe", {"uri": "memo://apples"})["result"] == {}
        assert legacy.ask("resources/subscribe", {"uri": "memo://salaries"})["error"]["code"] == -32602
        assert sorted(upstream.asked("subscribe")) == [["subscribe", uri] for uri in honoured]
        modern.call("git_log", touch="memo://boats")
        assert updates(first) == "memo://boats"
        modern.call("git_log", touch="memo://apples")
        assert updates(first) == "memo://apples"
        assert updates(second) == "memo://apples"
        listen_id = first.acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
        assert first.events[-1]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == listen_id
        assert "_meta" not in second.events[-1]["params"]
        assert legacy.ask("resources/unsubscribe", {"uri": "memo://apples"})["result"] == {}
        modern.call("git_log", touch="memo://apples")
        modern.call("git_log", touch="memo://salaries")
        assert updates(first) == "memo://apples"
        assert first.quiet
        assert second.quiet
        assert not upstream.asked("unsubscribe")
    eventually(lambda: sorted(line[1] for line in upstream.asked("unsubscribe")) == honoured)
    eventually(settled)
    subscribed = [entry.tool for entry in ledger("call.completed") if data(entry).get("method")]
    assert sorted(subscribed) == ["memo://apples", "memo://apples", "memo://boats"]
    assert refusals() == 2


@one_way
def test_a_subscription_ends_with_the_right_to_read(
    cast: Cast, both: tuple[Client, Client], upstream: Library, served: Served
) -> None:
    modern, legacy = both
    with (
        modern.listen(resourceSubscriptions=["memo://apples"], resourcesListChanged=True) as first,
        legacy.listen() as second,
    ):
        open_streams(served, 2)
        answer = legacy.ask("resources/subscribe", {"uri": "memo://apples"})
        assert answer.get("result") == {}, answer
        binding = RoleBinding.objects.get(role__name="reader")
        end_binding(binding=binding, operator=cast.operator)
        # What is readable has changed, so the lists have.
        assert first.next()["method"] == "notifications/resources/list_changed"
        lists = {second.next()["method"] for _ in range(2)}
        assert lists == {f"notifications/{name}/list_changed" for name in ("prompts", "resources")}
        eventually(lambda: ["unsubscribe", "memo://apples"] in upstream.asked("unsubscribe"))
        assert not any(line.watches for line in served.gateway.watches._lines.values())
        modern.call("git_log", touch="memo://apples")
        cast.grant()  # what the older client hears of next
        second.changed()
        assert first.quiet
        assert not first.ended.is_set()


@one_way
def test_nobody_hears_of_what_another_principal_or_session_subscribed_to(
    cast: Cast, both: tuple[Client, Client], upstream: Library, served: Served
) -> None:
    modern, legacy = both
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    bind_role(role=RoleBinding.objects.get(role__name="reader").role, agent=other, operator=cast.operator)
    with (
        served.client(cast) as again,
        served.client(cast, agent=other) as stranger,
        served.client(cast, agent=other) as third,
    ):
        again.initialize()
        stranger.initialize()
        with (
            legacy.listen() as mine,
            again.listen() as elsewhere,
            stranger.listen() as theirs,
            third.listen(resourceSubscriptions=["memo://apples"]) as wanted,
        ):
            open_streams(served, 4)
            legacy.ask("resources/subscribe", {"uri": "memo://apples"})
            # Not by another session of the same principal, and not by who steals the id.
            again.ask("resources/unsubscribe", {"uri": "memo://apples"})
            thief = Client(stranger.url, stranger.token, session=legacy.session)
            assert thief.post(thief.message("resources/unsubscribe", {"uri": "memo://apples"})).status_code == 404
            thief.http.close()
            modern.call("git_log", touch="memo://apples")
            assert updates(mine) == "memo://apples"
            assert updates(wanted) == "memo://apples"
            assert elsewhere.quiet
            assert theirs.quiet
    assert upstream.asked("subscribe") == [["subscribe", "memo://apples"]]


def test_changes_of_lists_reach_those_who_listen_for_them(both: tuple[Client, Client], served: Served) -> None:
    modern, legacy = both
    with (
        modern.listen(resourcesListChanged=True) as resources,
        modern.listen(promptsListChanged=True) as prompts,
        legacy.listen() as everything,
    ):
        open_streams(served, 3)
        assert resources.acknowledged["params"]["notifications"] == {"resourcesListChanged": True}
        for client in both:
            client.ask("resources/list")
        modern.call("git_log", add="resources")
        assert resources.next()["method"] == "notifications/resources/list_changed"
        assert everything.next()["method"] == "notifications/resources/list_changed"
        assert prompts.quiet
        modern.call("git_log", add="prompts")
        assert prompts.next()["method"] == "notifications/prompts/list_changed"
        assert everything.next()["method"] == "notifications/prompts/list_changed"
        assert resources.quiet
    assert any(one.startswith("more-") for one in [each["name"] for each in _all(modern, "prompts/list", "prompts")])


def _all(client: Client, method: str, member: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    while True:
        result = client.ask(method, params)["result"]
        found += result[member]
        if "nextCursor" not in result:
            return found
        params = {"cursor": result["nextCursor"]}


@one_way
def test_subscriptions_of_one_stream_are_capped_and_must_be_texts(
    both: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    modern, legacy = both
    monkeypatch.setattr(subscribing, "MAX_RESOURCES", 1)
    with modern.listen(resourceSubscriptions=["memo://apples", "memo://boats"]) as stream:
        assert stream.acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["memo://apples"]}
    assert "result" in legacy.ask("resources/subscribe", {"uri": "memo://apples"})
    assert legacy.ask("resources/subscribe", {"uri": "memo://boats"})["error"]["code"] == -32602
    for wrong in ("memo://apples", [1], {}):
        answer = modern.post(
            modern.message("subscriptions/listen", {"notifications": {"resourceSubscriptions": wrong}})
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
    for method in ("resources/subscribe", "resources/unsubscribe"):
        assert legacy.ask(method, {})["error"]["code"] == -32602
        assert modern.post(modern.message(method, {"uri": "memo://apples"})).status_code == 404


@one_way
def test_on_a_connection_for_all_nobody_takes_the_places_of_others(
    cast: Cast, both: tuple[Client, Client], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    modern, legacy = both
    monkeypatch.setattr(watches, "MAX_OF_ONE", 1)
    monkeypatch.setattr(watches, "MAX_WATCHED", 2)
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    bind_role(role=RoleBinding.objects.get(role__name="reader").role, agent=other, operator=cast.operator)
    wanted = ["memo://apples", "memo://boats"]
    with served.client(cast, agent=other) as stranger, modern.listen(resourceSubscriptions=wanted) as stream:
        honoured = stream.acknowledged["params"]["notifications"]["resourceSubscriptions"]
        assert len(honoured) == 1
        [missed] = set(wanted) - set(honoured)
        refused = legacy.ask("resources/subscribe", {"uri": missed})["error"]["message"]
        assert "1 for one principal, and 2 for all" in refused
        with stranger.listen(resourceSubscriptions=[missed]) as theirs:
            assert theirs.acknowledged["params"]["notifications"]["resourceSubscriptions"] == [missed]
            [connection] = {line.connection for line in served.gateway.watches._lines.values() if line.watches}
            assert connection
            assert connection.lasting == 2
            assert connection.pending == 2
    eventually(lambda: connection.lasting == 0)


@one_way
def test_a_session_subscribes_in_whatever_process_and_hears_where_its_stream_is(
    cast: Cast, both: tuple[Client, Client], start: Callable[..., Served], upstream: Library
) -> None:
    modern, legacy = both
    other = start({"git": upstream.config})
    elsewhere = Client(other.url, legacy.token, session=legacy.session)
    with elsewhere.http, legacy.listen() as stream:
        assert elsewhere.ask("resources/subscribe", {"uri": "memo://apples"})["result"] == {}
        # The other process has it too, until it is clear that nobody listens there.
        eventually(lambda: len(upstream.asked("subscribe")) == 2)
        modern.call("git_log", touch="memo://apples")
        assert updates(stream) == "memo://apples"
        assert elsewhere.ask("resources/unsubscribe", {"uri": "memo://apples"})["result"] == {}
        eventually(lambda: len(upstream.asked("unsubscribe")) == 2)
        modern.call("git_log", touch="memo://apples")
        assert stream.quiet


@one_way
def test_a_session_that_ends_ends_its_subscriptions(both: tuple[Client, Client], served: Served) -> None:
    _, legacy = both
    with legacy.listen() as stream:
        legacy.ask("resources/subscribe", {"uri": "memo://apples"})
        assert legacy.http.delete(legacy.endpoint, headers=legacy.headers()).status_code == 200
        assert stream.ended.wait(5)
    eventually(lambda: not served.gateway.subscriptions._all)
    assert not any(line.watches for line in served.gateway.watches._lines.values())


@pytest.mark.parametrize("upstream", ["stdio modern", "stdio legacy"], indirect=True)
def test_what_is_watched_is_watched_again_when_its_server_was_gone(
    both: tuple[Client, Client], upstream: Library, served: Served
) -> None:
    modern, _ = both
    with modern.listen(resourceSubscriptions=["memo://apples"]) as stream:
        (line,) = [one for one in served.gateway.watches._lines.values() if one.watches]
        os.killpg(line.connection.pid, signal.SIGKILL)  # type: ignore[union-attr]
        # What happened meanwhile is not known, so it is told as a change; and the new process tells again.
        assert updates(stream) == "memo://apples"
        assert len(upstream.asked("subscribe")) == 2
        modern.call("git_log", touch="memo://apples")
        assert updates(stream) == "memo://apples"
