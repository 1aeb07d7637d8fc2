"""Short calls whose client leaves, whose right ends, whose gateway stops or fails: each has one end, and the right one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import psycopg
import pytest
from aiohttp import web
from django.db import connection

from jitaccess.gateway.calling import forwarding
from jitaccess.gateway.calling import short as short_way
from jitaccess.gateway.models import OpenCall
from jitaccess.identity.services import set_agent_enabled
from tests.cast import OPERATOR
from tests.gateway.harness import DENY, data, eventually, ledger, ledger_held, settled, told
from tests.gateway.shortly import Held, Line, World, call, entries, line, nothing_is_left, short
from tests.gateway.upstream.web_server import Seen

__all__ = ["line", "short"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("turned", [False, True])
def test_a_client_that_leaves_while_its_call_is_at_the_server_has_cancelled_it(
    short: World, line: Line, turned: bool
) -> None:
    short.learn(line, call(path="x"))
    held = Held(short)
    other = short.line()
    other.say(line.request(call(path="x")))
    held.wait(2)
    if turned:
        eventually(lambda: short.ways.turned)
    other.close()
    eventually(lambda: held.cancelled, what="the server's request is cancelled")
    eventually(settled)
    assert told()[-2:] == ["call.authorized", "call.outcome_unknown"]
    assert data(ledger()[-1])["why"] == "the client left or cancelled the call"
    eventually(lambda: nothing_is_left(short))


@pytest.mark.parametrize("turned", [False, True])
def test_a_client_that_leaves_while_its_call_waits_for_the_ledger_has_sent_nothing(
    short: World, line: Line, turned: bool
) -> None:
    short.learn(line, call(path="x"))
    eventually(settled)
    other = short.line()
    with ledger_held():
        other.say(line.request(call(path="x")))
        eventually(lambda: short.ways.taken)
        if turned:
            eventually(lambda: short.ways.turned)
        other.close()
        eventually(lambda: short.ways.turned and not short.served.gateway.in_flight)
    eventually(lambda: told()[-2:] == ["call.authorized", "call.not_sent"], what=str(told()))
    assert len(short.upstream.calls()) == 1
    eventually(lambda: nothing_is_left(short))


def test_a_call_that_waits_for_the_ledger_longer_than_a_moment_is_made_once(short: World, line: Line) -> None:
    short.learn(line, call(path="x"))
    eventually(settled)
    with ledger_held():
        line.say(line.request(call(path="x")))
        eventually(lambda: short.ways.turned)
    assert line.hear().status == 200
    eventually(lambda: nothing_is_left(short))
    assert told()[-2:] == ["call.authorized", "call.completed"]
    assert len(short.upstream.calls()) == 2


@pytest.mark.parametrize("moment", [60.0, short_way.MOMENT_SECONDS])
def test_a_call_whose_right_ends_while_it_is_at_the_server_is_cut(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    monkeypatch.setattr(short_way, "MOMENT_SECONDS", moment)
    short.learn(line, call(path="x"))
    held = Held(short)
    line.say(line.request(call(path="x")))
    held.wait(2)
    set_agent_enabled(agent=short.cast.agent, enabled=False, operator=OPERATOR)
    answer = line.hear().result
    assert answer["_meta"]["io.jitaccess/upstream_error"] == {"error": "access_ended", "sent": True}
    eventually(lambda: held.cancelled)
    eventually(settled)
    assert told()[-2:] == ["call.authorized", "call.outcome_unknown"]
    eventually(lambda: nothing_is_left(short))


@pytest.mark.parametrize(("moment", "cut"), [(60.0, True), (0.01, True), (60.0, False)])
def test_a_call_that_is_under_way_when_the_gateway_stops_is_told_and_on_record(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch, moment: float, cut: bool
) -> None:
    monkeypatch.setattr(short_way, "MOMENT_SECONDS", moment)
    short.learn(line, call(path="x"))
    held = Held(short)
    line.say(line.request(call(path="x")))
    held.wait(2)
    if moment < 1:
        eventually(lambda: short.ways.turned)
    if cut:
        short.on_loop(short.served.gateway.cut)
        assert line.hear().status == 503
    short.served.stop()
    if not cut:
        assert line.hear().status == 503
    assert told()[-2:] == ["call.authorized", "call.outcome_unknown"]
    assert data(ledger()[-1])["why"] == "the gateway was stopped"
    assert not OpenCall.objects.exists()


@pytest.mark.parametrize("way", ["short", "turned", "long"])
def test_a_call_that_waits_for_the_ledger_when_the_gateway_stops_is_not_left_open(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(short_way, "MOMENT_SECONDS", 0.01 if way == "turned" else 60.0)
    short.learn(line, call(path="x"))
    eventually(settled)
    gateway = short.served.gateway
    with ledger_held():
        line.say(line.request(call(path="x"), x_long="1" if way == "long" else None))
        eventually(lambda: short.ways.turned if way == "turned" else short.ways.taken or gateway.in_flight)
        stopping = threading.Thread(target=short.served.stop)
        stopping.start()
        eventually(lambda: gateway.over)
    stopping.join(20)
    assert line.hear().status in {200, 503}
    assert settled(), told()
    assert told()[-1] in {"call.not_sent", "call.completed"}
    assert not OpenCall.objects.exists()


def test_an_answer_in_the_graceful_stop_is_the_last_on_its_connection(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_way, "MOMENT_SECONDS", 60.0)
    short.learn(line, call(path="x"))
    held = Held(short)
    line.say(line.request(call(path="x")))
    held.wait(2)
    stopping = threading.Thread(target=short.served.stop)
    stopping.start()
    eventually(lambda: short.way._closed)
    eventually(lambda: short.connections()[0]._last)
    held.let_go()
    answer = line.hear()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert line.is_closed()
    stopping.join(20)
    assert told()[-2:] == ["call.authorized", "call.completed"]


@pytest.mark.parametrize("where", ["read", "checked", "written"])
def test_a_mistake_of_ours_after_the_call_went_out_is_an_end_and_an_answer(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    short.learn(line, call(path="x"))
    eventually(settled)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    what = {
        "read": (short_way.atonce, "answer"),
        "checked": (forwarding, "masked"),
        "written": (short_way.wire, "stamped"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*what[where], broken)
        answer = short.short(line, line.request(call(path="x")))
    assert answer.status == 500
    assert b"Zero" not in answer.body
    assert answer.json["id"] == 1
    eventually(lambda: nothing_is_left(short))
    begun, end = entries()[-1]
    assert (begun["event"], end["event"]) == (
        "call.authorized", "call.outcome_unknown" if where == "read" else "call.completed",
    )  # fmt: skip
    assert short.short(line, line.request(call(path="x"))).status == 200


def test_a_mistake_of_ours_before_the_call_goes_out_sends_it_once_on_the_long_way(
    short: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    short.learn(line, call(path="x"))

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(short_way.atonce, "ask", broken)
    assert short.short(line, line.request(call(path="x"))).status == 200
    assert len(short.ways.turned) == 1
    assert len(short.upstream.calls()) == 2
    eventually(lambda: nothing_is_left(short))


@pytest.mark.postgresql_only
def test_a_call_whose_commit_nobody_heard_is_refused_and_sends_nothing(short: World, line: Line) -> None:
    short.learn(line, call(path="x"))
    eventually(settled)
    with ledger_held():
        line.say(line.request(call(path="x")))
        eventually(lambda: short.ways.taken)
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
            waits = "datname = current_database() AND wait_event_type = 'Lock'"
            ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waits}"
            eventually(lambda: other.execute(ended).fetchall())
    assert line.hear().result["_meta"][DENY]["reason_code"] == "unavailable"
    assert len(short.upstream.calls()) == 1
    assert told()[-1] in {"call.completed", "call.not_sent"}
    eventually(lambda: nothing_is_left(short))


def test_whatever_happens_to_many_calls_each_has_one_end_and_nothing_is_left(short: World, line: Line) -> None:
    """Clients leave, the server hangs, hangs up, streams and fails, an agent is locked out and let in again."""
    order = random.Random(7)
    short.learn(line, call(path="0"))

    async def anyhow(seen: Seen) -> web.StreamResponse:
        how = order.randrange(8)
        await asyncio.sleep(order.choice((0, 0, 0, 0.01, 0.25)))
        if how == 0:
            assert seen.request.transport is not None
            seen.request.transport.abort()
        if how == 1:
            return await seen.stream(seen.result())
        return seen.json(status=500) if how == 2 else seen.json()

    short.upstream.on["tools/call"] = anyhow
    lines = [short.line() for _ in range(16)]
    for turn in range(20):
        waiting = []
        for number, one in enumerate(lines):
            one.say(line.request(call(path=str(turn % 10))))
            if order.randrange(6) == 0:
                time.sleep(order.choice((0, 0.005)))
                one.close()
                lines[number] = short.line()
                continue
            waiting.append(one)
        if turn in {7, 9}:
            set_agent_enabled(agent=short.cast.agent, enabled=turn == 9, operator=OPERATOR)
        assert {one.hear().status for one in waiting} <= {200}
    eventually(lambda: nothing_is_left(short))
    assert len(short.ways.taken) > 100
    assert 0 < len(short.ways.turned) < len(short.ways.taken)
    authorized, unsent = (len(ledger(event)) for event in ("call.authorized", "call.not_sent"))
    assert authorized - unsent >= len(short.upstream.calls()) >= len(ledger("call.completed"))
    assert {entry.call for entry in ledger("call.authorized")}.isdisjoint(entry.call for entry in ledger("call.denied"))


def test_a_client_that_leaves_in_the_middle_of_its_next_request_has_cancelled_this_one(
    short: World, line: Line
) -> None:
    short.learn(line, call(path="x"))
    held = Held(short)
    other = short.line()
    other.say(line.request(call(path="x")))
    held.wait(2)
    other.say(line.request(call(path="y"))[:50])
    eventually(lambda: short.ways.turned)
    other.close()
    eventually(lambda: held.cancelled)
    eventually(lambda: nothing_is_left(short))
    assert told()[-1] == "call.outcome_unknown"
    assert len(short.upstream.calls()) == 2
