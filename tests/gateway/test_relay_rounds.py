"""Calls of several rounds: what a client carries from one to the next is good for the same call and access, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jitaccess.gateway.talking.asking import MAX_OPEN, Questions
from jitaccess.gateway.upstream.errors import RemoteError
from requests_app.services.end import revoke_grant
from tests.cast import Cast
from tests.gateway.harness import DENY, Client, Served, data, echo, eventually, ledger, settled, told
from tests.gateway.relaying import ACCEPT, EVERYTHING, FORM, able, answered, ask, nothing_is_left, streaming
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)

Sent = Callable[[], list[dict[str, Any]]]
QUESTION = {"who": {"method": "elicitation/create", "params": FORM}}
ROUNDS = {"do": "rounds", "ask": QUESTION}


@pytest.fixture
def older(start: Callable[..., Served], record: Path) -> Served:
    """A gateway before a server of the older era."""
    return start({"git": echo(record, era="legacy")})


@pytest.fixture
def asker(cast: Cast, older: Served) -> Iterator[Client]:
    """A client of the newer era before a server of the older one."""
    with older.client(cast) as client:
        yield client


def first(client: Client, tool: str = "git_log", arguments: dict[str, Any] = ROUNDS) -> dict[str, Any]:
    answer = ask(client, tool, arguments)
    assert answer["result"]["resultType"] == "input_required", answer
    return dict(answer["result"])


def said(answer: dict[str, Any]) -> Any:
    return json.loads(answer["result"]["content"][0]["text"])


def test_questions_and_answers_pass_and_the_servers_state_stays_its_own(agent: Client, sent: Sent) -> None:
    asked = first(agent)
    assert asked["inputRequests"] == QUESTION
    assert "round" not in asked["requestState"]
    answers = {"who": ACCEPT}
    answer = ask(agent, "git_log", ROUNDS, inputResponses=answers, requestState=asked["requestState"])
    assert said(answer) == {"inputResponses": answers, "requestState": "round 1"}
    eventually(settled)
    one, _, two, _ = ledger()
    assert told() == ["call.authorized", "call.completed"] * 2
    assert data(ledger()[1])["input_required"] == ["elicitation/create"]
    assert data(two)["continues"] == str(one.call)


def test_rounds_without_a_question_pass_in_every_era(agent: Client, legacy: Client) -> None:
    arguments = {"do": "rounds", "rounds": 2}
    one = first(agent, arguments=arguments)
    assert "inputRequests" not in one
    two = ask(agent, "git_log", arguments, requestState=one["requestState"])["result"]
    assert said(ask(agent, "git_log", arguments, requestState=two["requestState"]))["requestState"] == "round 2"
    assert json.loads(legacy.call("git_log", **arguments)["content"][0]["text"])["requestState"] == "round 2"


@pytest.mark.parametrize("what", ["changed", "the server's own", "arguments", "tool", "principal", "used twice"])
def test_a_state_is_refused_for_anything_but_the_call_it_was_sealed_for(
    cast: Cast, gateway: Served, agent: Client, sent: Sent, what: str
) -> None:
    state = first(agent)["requestState"]
    other = gateway.client(cast, user=cast.olga)
    if what == "used twice":
        assert "result" in ask(agent, "git_log", ROUNDS, requestState=state)
    before = len(sent())
    answer = {
        "changed": lambda: ask(
            agent, "git_log", ROUNDS, requestState=state[:-2] + ("AA" if state[-2:] != "AA" else "BB")
        ),
        "the server's own": lambda: ask(agent, "git_log", ROUNDS, requestState="round 1"),
        "arguments": lambda: ask(agent, "git_log", ROUNDS | {"more": 1}, requestState=state),
        "tool": lambda: ask(agent, "git_status", ROUNDS, requestState=state),
        "principal": lambda: ask(other, "git_log", ROUNDS, requestState=state),
        "used twice": lambda: ask(agent, "git_log", ROUNDS, requestState=state),
    }[what]()
    other.http.close()
    assert answer["error"]["code"] == -32602
    assert len(sent()) == before


def test_going_on_is_no_further_use_and_beginning_again_is(cast: Cast, agent: Client, sent: Sent) -> None:
    cast.limited(1)
    state = first(agent, "git_commit")["requestState"]
    assert agent.refusal("git_commit") == "used_up"
    answer = ask(agent, "git_commit", ROUNDS, inputResponses={"who": ACCEPT}, requestState=state)
    assert said(answer)["inputResponses"] == {"who": ACCEPT}
    assert agent.refusal("git_commit") == "used_up"
    assert len(sent()) == 2


def test_access_that_ended_between_two_rounds_stops_the_call(cast: Cast, agent: Client, sent: Sent) -> None:
    grant = cast.limited(2).origin_id
    state = first(agent, "git_commit")["requestState"]
    revoke_grant(grant_id=grant, user=cast.admin)
    result = ask(agent, "git_commit", ROUNDS, requestState=state)["result"]
    assert result["_meta"][DENY]["reason_code"] == "revoked"
    assert len(sent()) == 1


def test_a_call_that_was_approved_word_by_word_takes_no_answers(cast: Cast, agent: Client, sent: Sent) -> None:
    agent.use("request_access", calls=[{"tool": "git_commit", "arguments": ROUNDS}], reason="The release notes")
    from requests_app.selectors import AccessRequest

    cast.approve(AccessRequest.objects.get())
    state = first(agent, "git_commit")["requestState"]
    result = ask(agent, "git_commit", ROUNDS, inputResponses={"who": ACCEPT}, requestState=state)["result"]
    assert result["_meta"][DENY]["reason_code"] == "other_arguments"
    assert len(sent()) == 1


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_newer_server_may_ask_only_what_the_client_declared(
    cast: Cast, gateway: Served, sent: Sent, era: str
) -> None:
    with gateway.client(cast) as client:
        if era == "modern":
            answer = ask(client, "git_log", ROUNDS, capabilities={"elicitation": {"url": {}}})
            assert (answer["error"]["code"], answer["error"]["data"]) == (
                -32021, {"requiredCapabilities": {"elicitation": {"form": {}}}},
            )  # fmt: skip
        else:
            result = able(client, {"sampling": {}}).call("git_log", **ROUNDS)
            assert result["isError"]
            assert "did not declare: elicitation" in result["content"][0]["text"]
    eventually(settled)
    assert told() == ["call.authorized", "call.failed"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "http://", "https://a b", "//host", 7])
def test_a_client_is_sent_to_the_web_only(agent: Client, url: Any) -> None:
    question = {"in": {"method": "elicitation/create", "params": {"mode": "url", "message": "Sign in", "url": url}}}
    result = ask(agent, "git_log", ROUNDS | {"ask": question})["result"]
    assert result["isError"]
    assert "http://" in result["content"][0]["text"]


@pytest.mark.parametrize(
    "wrong", [{"inputResponses": []}, {"requestState": 1}, {"requestState": ""}, {"requestState": "a.b"}]
)
def test_what_is_no_state_is_refused(agent: Client, sent: Sent, wrong: dict[str, Any]) -> None:
    assert ask(agent, "git_log", ROUNDS, **wrong)["error"]["code"] == -32602
    assert sent() == []


def test_an_older_client_is_asked_on_its_stream_by_a_newer_server(cast: Cast, gateway: Served, sent: Sent) -> None:
    with gateway.client(cast) as client:
        able(client)
        with streaming(client, "tools/call", {"name": "git_log", "arguments": ROUNDS}) as stream:
            question = stream.next()
            assert (question["method"], question["params"]) == ("elicitation/create", FORM)
            with gateway.client(cast) as stranger:  # the same agent in another session
                assert answered(able(stranger), question["id"], result=ACCEPT) == 202
            with gateway.client(cast, user=cast.olga) as stranger:
                assert answered(able(stranger), question["id"], result=ACCEPT) == 202
            assert stream.quiet
            assert answered(client, question["id"], result=ACCEPT) == 202
            result = stream.next()["result"]
        assert json.loads(result["content"][0]["text"])["inputResponses"] == {"who": ACCEPT}
        assert answered(client, question["id"], result=ACCEPT) == 202  # too late, and nobody's fault
    eventually(settled)
    assert told() == ["call.authorized", "call.completed"] * 2
    assert nothing_is_left(gateway)


def test_an_older_server_waits_while_its_newer_client_answers(asker: Client, older: Served, sent: Sent) -> None:
    arguments = {"do": "ask", "method": "elicitation/create", "params": FORM, "times": 2}
    asked = first(asker, arguments=arguments)
    ((key, question),) = list(asked["inputRequests"].items())[:1]
    assert question == {"method": "elicitation/create", "params": FORM}
    assert len(older.gateway.parked) == 1
    state = asked["requestState"]
    # Without all of the answers it is asked for the rest.
    rest = ask(asker, "git_log", arguments, inputResponses={key: ACCEPT}, requestState=state)["result"]
    assert rest["resultType"] == "input_required"
    assert ask(asker, "git_log", arguments, inputResponses={key: ACCEPT}, requestState=state)["error"]["code"] == -32602
    answers = dict.fromkeys(rest["inputRequests"], ACCEPT)
    answer = ask(asker, "git_log", arguments, inputResponses=answers, requestState=rest["requestState"])
    assert said(answer) == {"result": ACCEPT, "error": None}
    eventually(settled)
    assert told() == ["call.authorized", "call.completed"] * 3 or told().count("call.completed") == 3
    assert len(sent()) == 1
    assert nothing_is_left(older)


def test_two_who_bring_the_same_answers_are_one(asker: Client, older: Served, sent: Sent) -> None:
    arguments = {"do": "ask", "method": "roots/list"}
    asked = first(asker, arguments=arguments)
    answers = {key: {"roots": []} for key in asked["inputRequests"]}
    found = race(
        *[lambda: ask(asker, "git_log", arguments, inputResponses=answers, requestState=asked["requestState"])] * 4
    )
    assert sum("result" in answer for answer in found) == 1
    assert all(answer["error"]["code"] == -32602 for answer in found if "error" in answer)
    eventually(settled)
    assert len(sent()) == 1


def test_what_nobody_answers_is_cancelled_at_the_server_and_on_record(
    asker: Client, older: Served, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitaccess.gateway.talking.parked.PARK_SECONDS", 0.2)
    arguments = {"do": "ask", "method": "elicitation/create", "params": FORM}
    asked = first(asker, arguments=arguments)
    eventually(settled)
    assert told() == ["call.authorized", "call.outcome_unknown"]
    assert data(ledger()[1])["why"] == "nobody answered the server"
    assert eventually(lambda: "notifications/cancelled" in record.read_text())
    answer = ask(asker, "git_log", arguments, requestState=asked["requestState"])
    assert answer["error"]["code"] == -32602
    assert eventually(lambda: nothing_is_left(older))


def test_a_right_that_ends_while_a_call_waits_for_its_client_ends_the_call(
    cast: Cast, asker: Client, older: Served, record: Path
) -> None:
    grant = cast.limited(3).origin_id
    arguments = {"do": "ask", "method": "elicitation/create", "params": FORM}
    asked = first(asker, "git_commit", arguments)
    revoke_grant(grant_id=grant, user=cast.admin)
    eventually(settled)
    assert told()[:2] == ["call.authorized", "call.outcome_unknown"]
    assert eventually(lambda: "notifications/cancelled" in record.read_text())
    answer = ask(asker, "git_commit", arguments, requestState=asked["requestState"])
    assert "error" in answer or answer["result"]["isError"]
    assert eventually(lambda: nothing_is_left(older))


def test_a_gateway_that_stops_leaves_no_waiting_call_behind(asker: Client, older: Served) -> None:
    first(asker, arguments={"do": "ask", "method": "roots/list"})
    older.stop()
    assert settled()
    assert told() == ["call.authorized", "call.outcome_unknown"]
    assert nothing_is_left(older)


def test_so_many_calls_of_one_client_may_wait_and_no_more(asker: Client, older: Served) -> None:
    for number in range(8):
        first(asker, arguments={"do": "ask", "method": "roots/list", "number": number})
    answer = ask(asker, "git_log", {"do": "ask", "method": "roots/list"})
    assert "Too many calls wait" in said(answer)["error"]["message"]
    assert len(older.gateway.parked) == 8


def test_calls_whose_clients_left_give_way_the_oldest_first_and_on_record(
    asker: Client, older: Served, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [first(asker, arguments={"do": "ask", "method": "roots/list", "number": number}) for number in range(8)]
    monkeypatch.setattr("jitaccess.gateway.talking.parked.ABANDONED_SECONDS", 0.0)
    first(asker, arguments={"do": "ask", "method": "roots/list", "number": 8})
    unknown = eventually(lambda: ledger("call.outcome_unknown"))
    assert [data(entry)["why"] for entry in unknown] == [
        "nobody answered the server, and another call needed the place"
    ]
    assert unknown[0].call == ledger("call.authorized")[0].call
    assert eventually(lambda: record.read_text().count("notifications/cancelled")) == 1
    for number in (0, 1):
        arguments = {"do": "ask", "method": "roots/list", "number": number}
        answers = {key: {"roots": []} for key in asked[number]["inputRequests"]}
        answer = ask(asker, "git_log", arguments, inputResponses=answers, requestState=asked[number]["requestState"])
        assert ("result" in answer) == bool(number), "only the oldest is over"


@pytest.mark.pure
def test_a_question_that_nobody_answers_gives_way_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        questions, instance = Questions(), uuid4()

        def one(principal: str) -> Any:
            return held.enter_context(questions.one(instance, principal=principal, session="s"))

        with contextlib.ExitStack() as held:
            answers = [one("a")[1] for _ in range(MAX_OPEN)]
            other = one("b")[1]
            with pytest.raises(RemoteError):
                one("a")
            monkeypatch.setattr("jitaccess.gateway.talking.asking.ABANDONED_SECONDS", 0.0)
            name, _ = one("a")
            with pytest.raises(RemoteError, match="another question"):
                await answers[0]
            assert not any(answer.done() for answer in (*answers[1:], other))
            assert questions.take({"id": name, "result": {}}, principal="a", session="s")
        assert not len(questions)

    asyncio.run(main())


def test_a_sign_in_that_an_older_server_demands_is_a_question_to_a_newer_client(asker: Client, sent: Sent) -> None:
    params = {"mode": "url", "message": "Sign in", "url": "https://example.test/in", "elicitationId": "1"}
    arguments = {"do": "url", "params": params}
    asked = first(asker, arguments=arguments)
    assert asked["inputRequests"] == {"question-1": {"method": "elicitation/create", "params": params}}
    ask(
        asker,
        "git_log",
        arguments,
        inputResponses={"question-1": {"action": "accept"}},
        requestState=asked["requestState"],
    )
    assert [call.get("inputResponses") for call in sent()] == [None, None]
    answer = ask(asker, "git_log", arguments, capabilities={})
    assert answer["error"]["code"] == -32021


def test_only_what_a_client_declared_is_announced(cast: Cast, older: Served, gateway: Served) -> None:
    declared = {
        "elicitation": {"form": {"x": 1}, "other": {}},
        "roots": {"listChanged": True},
        "experimental": {"x": {}},
    }
    kept = {"elicitation": {"form": {}}, "roots": {}}
    for served in (older, gateway):
        with served.client(cast) as client:
            assert said(ask(client, "git_log", {"do": "announced"}, capabilities=declared)) == kept
            assert said(ask(client, "git_log", {"do": "announced"}, capabilities={})) == {}
            assert json.loads(able(client, declared).call("git_log", do="announced")["content"][0]["text"]) == kept
            assert json.loads(able(client).call("git_log", do="announced")["content"][0]["text"]) == EVERYTHING
