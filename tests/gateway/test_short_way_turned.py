"""Calls that began the short way and end on the long one: nothing of them is lost, done twice or said twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from tests.cast import Cast
from tests.gateway.harness import Served, eventually, settled, told
from tests.gateway.shortly import Held, Line, World, alike, call, entries, line, nothing_is_left, received, short, world
from tests.gateway.upstream.web_server import Seen

__all__ = ["line", "short"]
pytestmark = pytest.mark.django_db(transaction=True)
Handler = Callable[[Seen], Awaitable[web.StreamResponse]]


async def late(seen: Seen) -> web.Response:
    await asyncio.sleep(0.5)
    return seen.json()


async def told_of(seen: Seen) -> web.StreamResponse:
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
    return await seen.stream(progress, seen.result())


async def later_told_of(seen: Seen) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(seen.request)
    await asyncio.sleep(0.05)
    await response.write(b"data: " + json.dumps(seen.result()).encode() + b"\n\n")
    return response


async def large(seen: Seen) -> web.Response:
    return seen.json({"resultType": "complete", "content": [{"type": "text", "text": "x" * 300_000}]})


async def huge(seen: Seen) -> web.Response:
    return seen.json({"resultType": "complete", "content": [{"type": "text", "text": "x" * (9 << 20)}]})


async def in_pieces(seen: Seen) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(seen.request)
    whole = json.dumps(seen.result()).encode()
    for piece in (whole[:20], whole[20:40], whole[40:]):
        await response.write(piece)
        await asyncio.sleep(0.15)
    return response


def with_id(**changes: Any) -> Handler:
    async def answer(seen: Seen) -> web.Response:
        return seen.json(**changes)

    return answer


def result(value: Any) -> Handler:
    async def answer(seen: Seen) -> web.Response:
        return seen.json(value)

    return answer


def status(code: int, **headers: str) -> Handler:
    async def answer(seen: Seen) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return seen.json(status=code, headers=named) if code == 200 else web.Response(status=code, headers=named)

    return answer


def text(body: bytes, kind: str = "application/json", **headers: str) -> Handler:
    async def answer(_: Seen) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers={"content-type": kind, **named})

    return answer


def error(**changes: Any) -> Handler:
    async def answer(seen: Seen) -> web.Response:
        return seen.error(-32000, "no", data={"k": 1}, **changes)

    return answer


def raw(*pieces: bytes, whole: bool = False) -> Handler:
    """These bytes, and no more; with `whole` a result in the middle, to the end of the connection."""

    async def answer(seen: Seen) -> web.Response:
        body = json.dumps(seen.result()).encode() if whole else b""
        transport = seen.request.transport
        assert transport is not None
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0.01 * bool(number))
            transport.write(piece.replace(b"LENGTH", b"%d" % len(body)).replace(b"BODY", body))
        transport.close()
        return web.Response()

    return answer


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
# What the server answers, and whether the call turns to the long way by it.
ANSWERS: dict[str, tuple[Handler, bool]] = {
    "late": (late, True), "a stream": (told_of, True), "a slow stream": (later_told_of, True),
    "large": (large, True), "huge": (huge, True), "in pieces": (in_pieces, True),
    "500": (status(500), True), "404": (status(404), True), "202": (status(202), True), "401": (status(401), True),
    "204": (status(204), True), "redirect": (status(307, location="http://127.0.0.1:1/"), True),
    "another id": (with_id(id=99999), True), "id as text": (with_id(id="1"), True), "no id": (with_id(id=None), True),
    "no JSON": (text(b"{"), True), "not an object": (text(b"[]"), True), "nothing": (text(b""), True),
    "twice": (text(b'{"a": 1, "a": 1}'), True), "HTML": (text(b"<html>", "text/html"), True),
    "packed": (text(b"{}", content_encoding="br"), True), "error": (error(), True), "error 400": (error(status=400), True),
    "input": (result({"resultType": "input_required", "inputRequests": {}}), True),
    "no content": (result({"resultType": "complete"}), False), "isError": (result({"content": [], "isError": True}), False),
    "a text": (result("x"), True), "null": (result(None), False), "charset": (status(200, x_a="b"), False),
    "hangs up": (raw(), True), "half a head": (raw(b"HTTP/1.1 200"), True), "no body": (raw(OK + b"content-length: 9\r\n\r\n"), True),
    "half a body": (raw(OK + b"content-length: 900\r\n\r\n{"), True), "not HTTP": (raw(b"\0\0\0\0\r\n\r\n"), True),
    "two lengths": (raw(OK + b"content-length: LENGTH\r\ncontent-length: 1\r\n\r\nBODY", whole=True), True),
    "to the end": (raw(OK + b"\r\nBODY", whole=True), False), "interim": (raw(b"HTTP/1.1 103 Early\r\n\r\n", OK + b"content-length: LENGTH\r\n\r\nBODY", whole=True), False),
    "twice whole": (raw(OK + b"content-length: LENGTH\r\n\r\nBODY" + OK + b"content-length: LENGTH\r\n\r\nBODY", whole=True), False),
}  # fmt: skip


@pytest.mark.parametrize("how", ANSWERS)
def test_whatever_the_server_answers_is_answered_and_recorded_as_on_the_long_way(
    short: World, line: Line, how: str
) -> None:
    handler, turns = ANSWERS[how]
    request = line.request(call(path=how))
    short.upstream.on["tools/call"] = handler
    first = line.ask(request)
    assert short.ways.taken == []
    del short.upstream.on["tools/call"]
    short.ready(line, forget=False)
    short.upstream.on["tools/call"] = handler
    second = short.short(line, request)
    assert short.ways.taken[0].underway is not None, "it had gone out already"
    assert bool(short.ways.turned) is turns
    eventually(settled)
    alike(first, second)
    # A server that hung up may have failed a call in between.
    before, after = [one for one in entries() if one[0]["data"]["arguments"] == {"path": how}]
    assert before == after
    assert len(before) == 2
    assert len(short.upstream.calls()) == 3
    assert received(short.upstream.calls()[0]) == received(short.upstream.calls()[-1])
    del short.upstream.on["tools/call"]
    assert not line.ask(request).result.get("isError"), "nobody else is harmed"
    eventually(lambda: nothing_is_left(short))


def test_an_answer_that_comes_as_the_call_is_turned_ends_it_once(short: World, line: Line) -> None:
    request = line.request(call(path="x"))
    short.learn(line, call(path="x"))
    held = Held(short)
    line.say(request)
    held.wait(2)

    def turn() -> None:
        """The answer is here, but the event loop has not read it."""
        held.let_go()
        (underway,) = [one.underway for one in short.ways.taken]
        assert underway is not None
        connection = underway.sent.connection
        deadline = time.monotonic() + 10
        while connection.is_quiet():
            assert time.monotonic() < deadline
        short.way.turn_all()

    short.on_loop(turn)
    assert line.hear().status == 200
    eventually(settled)
    assert len(short.ways.turned) == 1
    assert told()[-2:] == ["call.authorized", "call.completed"]
    eventually(lambda: nothing_is_left(short))
    assert short.short(line, request).status == 200


@pytest.fixture
def hasty(cast: Cast, start: Callable[..., Served], settings: Any) -> Iterator[World]:
    with world(cast, start, settings, call_timeout=0.5) as found:
        yield found


def test_a_call_has_the_time_that_it_has_on_the_long_way(hasty: World) -> None:
    line = hasty.line()
    hasty.ready(line)
    request = line.request(call(path="x"))
    held = Held(hasty)
    first = line.ask(request)
    del hasty.upstream.on["tools/call"]
    hasty.ready(line)
    held = Held(hasty)
    second = hasty.short(line, request)
    eventually(lambda: held.cancelled)
    eventually(settled)
    alike(first, second)
    assert entries()[-3] == entries()[-1]
    assert told()[-1] == "call.outcome_unknown"
