"""What one agent may ask of a process: how much, and how often the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit.models import Entry
from jitaccess.catalog.services import set_options
from jitaccess.gateway.limits import Limits, Rate, Repeats
from jitaccess.gateway.wire import RpcError
from jitaccess.identity.services import create_agent
from tests.cast import OPERATOR, Cast
from tests.gateway.harness import DENY, Client, Served, eventually

Sent = Callable[[], list[dict[str, Any]]]
served = pytest.mark.django_db(transaction=True)


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.pure
@given(st.integers(1, 600), st.integers(1, 20), st.lists(st.floats(0, 30), max_size=60))
def test_no_minute_holds_more_than_the_rate_and_a_burst(per_minute: int, burst: int, pauses: list[float]) -> None:
    time = Time()
    rate = Rate(per_minute=per_minute, burst=burst, clock=time)
    taken: list[float] = []
    for pause in pauses:
        time.at += pause
        while not (wait := rate.take("a")):
            taken.append(time.at)
        assert sum(at > time.at - 60 for at in taken) <= per_minute + burst
        time.at += wait
        assert rate.take("a") == 0.0, "it is served when it was told to come back"
        taken.append(time.at)


@pytest.mark.pure
def test_everybody_has_a_rate_of_their_own_and_memory_is_bounded() -> None:
    time = Time()
    rate = Rate(per_minute=1, burst=1, most=8, clock=time)
    assert rate.take("a") == 0.0
    assert rate.take("a") == pytest.approx(60)
    assert rate.take("b") == 0.0
    for number in range(100):
        rate.take(str(number))
        assert len(rate._empty_at) <= 8
    time.at += 61
    assert rate.take("new") == 0.0
    assert len(rate._empty_at) == 1, "who would be served anyway is not remembered"


@pytest.mark.pure
def test_calls_are_counted_for_a_minute_from_the_first_and_the_oldest_are_forgotten() -> None:
    time = Time()
    repeats = Repeats(most=2, clock=time)
    assert [repeats.count("a", "x")[0] for _ in range(3)] == [1, 2, 3]
    assert repeats.count("a", "y") == (1, 60.0)
    time.at += 59
    assert repeats.count("a", "x") == (4, 1.0)
    time.at += 1
    assert repeats.count("a", "x") == (1, 60.0)
    repeats.count("b", "x")
    assert repeats.count("a", "y")[0] == 1, "it was the one that was made longest ago"


@pytest.mark.pure
def test_a_refusal_says_how_long_to_wait_in_whole_seconds() -> None:
    limits = Limits(per_minute=40, burst=1, clock=Time())
    limits.admit("a")
    with pytest.raises(RpcError, match=r"At most 40 requests a minute are served here\. Wait 2 seconds") as caught:
        limits.admit("a")
    assert (caught.value.status, caught.value.data) == (
        429,
        {"reason_code": "rate_limited", "retry_after_seconds": 2},
    )


@served
def test_beyond_the_rate_a_request_is_answered_429_unread_and_the_neighbour_is_served(
    cast: Cast, start: Callable[..., Served], sent: Sent
) -> None:
    gateway = start(limits=Limits(per_minute=1, burst=2))
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=OPERATOR)
    with gateway.client(cast) as agent, gateway.client(cast) as same, gateway.client(cast, agent=other) as neighbour:
        assert "tools" in agent.ask("tools/list")["result"]
        assert not agent.call("git_log").get("isError")
        for client in (agent, same):  # by whom it is, not by which token
            answer = client.post(b"not even JSON")
            assert answer.status_code == 429
            assert 50 <= int(answer.headers["retry-after"]) <= 60
            error = answer.json()["error"]
            assert error["data"] == {
                "reason_code": "rate_limited", "retry_after_seconds": int(answer.headers["retry-after"]),
            }  # fmt: skip
            assert "At most 1 requests a minute" in error["message"]
        assert not neighbour.call("git_log").get("isError")
    assert len(sent()) == 2
    assert not Entry.objects.filter(event="call.denied").exists(), "it was not looked at what was asked"


@served
def test_the_same_call_again_and_again_is_flagged_on_record_and_goes_on(agent: Client, sent: Sent) -> None:
    for _ in range(11):
        assert not agent.call("git_log", path="a").get("isError")
    agent.call("git_log", path="b")
    entry = eventually(lambda: Entry.objects.filter(event="call.repeated").first())
    assert (entry.agent_name, entry.server_name, entry.tool) == ("demo-agent", "git", "git_log")
    said = json.loads(entry.data)
    assert said["times"] == 10
    call = Entry.objects.filter(event="call.authorized").order_by("uid").first()
    assert call is not None
    assert said["args_digest"] == json.loads(call.data)["args_digest"]
    assert Entry.objects.filter(event="call.repeated").count() == 1
    assert len(sent()) == 12


@served
def test_beyond_its_limit_a_server_never_sees_the_same_call_and_the_model_is_told_why(
    cast: Cast, gateway: Served, sent: Sent
) -> None:
    set_options(server=cast.server, changes={"repeat_limit": 2}, operator=OPERATOR)
    cast.limited(3)
    with gateway.client(cast) as agent, gateway.client(cast) as same:
        for client in (agent, same):
            assert not client.call("git_commit", message="x").get("isError")
        result = agent.call("git_commit", message="x")
        assert result["isError"]
        assert "you have made exactly this call" in result["content"][0]["text"]
        assert "request_access" not in result["content"][0]["text"], "to ask for access would not help"
        assert result["_meta"][DENY]["reason_code"] == "repeated"
        assert not agent.call("git_commit", message="y").get("isError"), "no use was taken for the refusal"
    assert len(sent()) == 3
    denied = Entry.objects.get(event="call.denied")
    assert json.loads(denied.data)["reason_code"] == "repeated"


@served
def test_what_is_not_allowed_is_refused_for_that_reason_however_often(cast: Cast, gateway: Served) -> None:
    set_options(server=cast.server, changes={"repeat_limit": 1}, operator=OPERATOR)
    with gateway.client(cast) as agent:
        assert {agent.refusal("git_commit", message="x") for _ in range(3)} == {"no_binding"}
        for name in ("git_nothing", "git_log"):
            agent.ask("tools/call", {"name": name, "arguments": {}})
        assert "Unknown tool" in agent.ask("tools/call", {"name": "git_nothing", "arguments": {}})["error"]["message"]
    assert not Entry.objects.filter(event="call.repeated").exists()
