"""What a client sends before, in and after a short call: each byte belongs to one request, and to the right one."""

from __future__ import annotations

from typing import Any

import pytest

from jitaccess.runtime import protocol
from tests.gateway.harness import eventually, settled
from tests.gateway.shortly import Held, Line, World, call, short

__all__ = ["short"]
pytestmark = pytest.mark.django_db(transaction=True)
ONE, TWO = call(path="a"), call(path="b", number=2)


@pytest.fixture
def line(short: World) -> Line:
    """A connection on which heads of this length are known."""
    found = short.line()
    short.ready(found)
    short.learn(found, ONE)
    short.short(found, found.request(ONE))
    eventually(settled)
    short.upstream.seen.clear()
    short.ways.taken.clear()
    short.ways.left = 0
    return found


def paths(world: World) -> list[str]:
    return [seen.message["params"]["arguments"].get("path", "") for seen in world.upstream.calls()]


def ids(*answers: Any) -> list[Any]:
    return [answer.json["id"] for answer in answers]


def test_a_head_in_two_segments_goes_the_long_way(short: World, line: Line) -> None:
    request = line.request(ONE)
    for cut in (5, 40, request.index(b"\r\n\r\n") + 2):
        line.say(request[:cut])
        _arrived(short)
        assert line.ask(request[cut:]).status == 200
    assert short.ways.taken == []
    assert len(paths(short)) == 3
    short.short(line, request)


def test_a_body_that_comes_after_its_head_goes_the_short_way_too(short: World, line: Line) -> None:
    """Most clients write them one after the other, and say that they keep the connection."""
    request = line.request(ONE, connection="keep-alive")
    ends = request.index(b"\r\n\r\n") + 4
    for cut in (ends, ends, ends + 1, len(request) - 1):
        line.say(request[:cut])
        _arrived(short)
        assert line.ask(request[cut:]).status == 200
    eventually(settled)
    assert len(short.ways.taken) == 3
    assert len(paths(short)) == 4
    line.say(request[:ends])
    _arrived(short)
    for at in range(ends, len(request)):  # a byte at a time
        line.say(request[at : at + 1])
    assert line.hear().status == 200
    eventually(settled)
    assert len(paths(short)) == 5


def test_a_body_that_does_not_come_is_left_to_the_long_way_and_its_limits(short: World, line: Line) -> None:
    request = line.request(ONE)
    short.short(line, request)
    ends = request.index(b"\r\n\r\n") + 4
    line.say(request[: ends + 3])
    _arrived(short)
    taken = len(short.ways.taken)

    def later() -> None:
        protocol.sweep(short.connections(), short.served.loop.time() + protocol.PART_SECONDS + 0.5)

    short.on_loop(later)
    assert line.ask(request[ends + 3 :]).status == 200
    assert len(short.ways.taken) == taken
    line.say(request[: ends + 3])
    _arrived(short)
    line.close()
    eventually(settled)


def test_two_requests_in_one_segment_are_answered_in_order_and_each_is_on_record(short: World, line: Line) -> None:
    line.say(line.request(ONE) + line.request(TWO))
    assert ids(line.hear(), line.hear()) == [1, 2]
    eventually(settled)
    assert sorted(paths(short)) == ["a", "b"]
    short.short(line, line.request(ONE))


@pytest.mark.parametrize("later", ["whole", "two", "half"])
def test_what_comes_while_a_short_call_is_under_way_is_answered_after_it(short: World, line: Line, later: str) -> None:
    held = Held(short)
    first, second = line.request(ONE), line.request(TWO)
    line.say(first)
    held.wait(1)
    rest = {"whole": second, "two": second + first, "half": second[:-9]}[later]
    line.say(rest)
    _arrived(short)
    assert len(paths(short)) == 1, "it waits for its turn"
    held.let_go()
    assert line.hear().json["id"] == 1
    assert short.ways.turned == []
    if later == "half":
        line.say(second[-9:])
    assert line.hear().json["id"] == 2
    if later == "two":
        assert line.hear().json["id"] == 1
    assert paths(short) == {"whole": ["a", "b"], "two": ["a", "b", "a"], "half": ["a", "b"]}[later]
    eventually(settled)


def test_what_comes_while_a_short_call_is_under_way_waits_also_when_that_turns(short: World, line: Line) -> None:
    held = Held(short)
    line.say(line.request(ONE))
    held.wait(1)
    line.say(line.request(TWO)[:20])
    _arrived(short)
    line.say(line.request(TWO)[20:])
    eventually(lambda: short.ways.turned)
    held.let_go()
    assert ids(line.hear(), line.hear()) == [1, 2]
    eventually(settled)
    assert paths(short) == ["a", "b"]


def test_garbage_after_a_calls_bytes_is_refused_and_the_call_is_made_once(short: World, line: Line) -> None:
    line.say(line.request(ONE) + b"\x00\x01garbage\r\n\r\n")
    assert line.hear().status in {200, 400}
    assert line.is_closed() or line.hear().status == 400
    eventually(settled)
    assert len(paths(short)) <= 1
    assert short.ways.taken == []


@pytest.mark.parametrize("rest", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_after_a_body_are_no_part_of_it(short: World, line: Line, rest: bytes) -> None:
    line.say(line.request(ONE) + rest)
    assert line.hear().status == 200
    assert short.ways.taken == []
    short.short(line, line.request(ONE))
    assert line.ask(rest + line.request(ONE)).status == 200


def test_a_known_request_in_the_body_of_another_is_no_request(short: World, line: Line) -> None:
    inner = line.request(TWO)
    outer = line.request(b"{}" + inner + b" " * 7)
    head, _, body = outer.partition(b"\r\n\r\n")
    for parts in ([head + b"\r\n\r\n{}", inner, b" " * 7], [head + b"\r\n\r\n", body], [outer]):
        for part in parts:
            line.say(part)
            _arrived(short)
        assert line.hear().status == 400
    assert short.ways.taken == []
    assert paths(short) == []
    assert short.short(line, inner).json["id"] == 2


def test_a_known_request_in_a_chunk_is_no_request(short: World, line: Line) -> None:
    inner = line.request(TWO)
    head = line.request(b"", transfer_encoding="chunked", content_length=None)
    for part in (head + b"%x\r\n" % len(inner), inner, b"\r\n0\r\n\r\n"):
        line.say(part)
        _arrived(short)
    assert line.hear().status == 400
    assert (short.ways.taken, paths(short)) == ([], [])
    short.short(line, inner)


def test_a_known_head_with_a_body_that_is_too_long_or_too_short_goes_the_long_way(short: World, line: Line) -> None:
    request = line.request(ONE)
    line.say(request[:-1])
    _arrived(short)
    line.say(b"}" + line.request(TWO))
    assert ids(line.hear(), line.hear()) == [1, 2]
    assert len(short.ways.taken) == 0 or short.ways.taken[0].call.arguments == {"path": "b"}
    line.say(request[:-1])
    _arrived(short)
    line.say(line.request(TWO))  # whose first byte ends the body, which is no JSON then
    assert line.hear().status == 400
    assert line.is_closed() or line.hear().status == 400
    eventually(settled)
    assert paths(short) == ["a", "b"]


FRAMES: dict[str, dict[str, Any]] = {
    "chunked": {"transfer_encoding": "chunked", "content_length": None}, "close": {"connection": "close"},
    "named": {"connection": "x-other"}, "expect": {"expect": "100-continue"}, "te": {"te": "trailers"},
    "1.0": {"version": "HTTP/1.0"}, "1.0 kept": {"version": "HTTP/1.0", "connection": "keep-alive"},
    "query": {"path": "/mcp/git?x=1"}, "upgrade": {"upgrade": "h2c"},
}  # fmt: skip


@pytest.mark.parametrize("how", FRAMES)
def test_a_head_that_frames_in_another_way_is_not_learnt(short: World, line: Line, how: str) -> None:
    request = line.request(ONE, **FRAMES[how])
    if how == "chunked":
        head, _, body = request.partition(b"\r\n\r\n")
        request = head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for _ in range(3):
        other = short.line()
        answer = other.ask(request)
        assert (other.hear() if answer.status == 100 else answer).status == 200
        assert other.is_closed() if how in {"close", "1.0"} else True
    eventually(settled)
    assert short.ways.left + len(short.ways.taken) == 0
    assert len(paths(short)) == 3


def test_a_connection_on_which_all_calls_are_short_is_not_put_out(short: World, line: Line) -> None:
    """What is to come within some seconds is the head of a request, and it came."""
    other = short.line()
    short.short(other, line.request(ONE))

    def later() -> None:
        loop = short.served.loop
        for one in short.connections():
            one.timeout_keep_alive = 60
        protocol.sweep(short.connections(), loop.time() + protocol.HEAD_SECONDS + 1)

    short.on_loop(later)
    short.short(other, line.request(ONE))
    eventually(settled)


def test_a_connection_that_nobody_uses_after_a_short_call_is_closed(short: World, line: Line) -> None:
    short.short(line, line.request(ONE))

    def later() -> None:
        protocol.sweep(short.connections(), short.served.loop.time() + short.connections()[0].timeout_keep_alive + 1)

    short.on_loop(later)
    assert line.is_closed()


def _arrived(world: World) -> None:
    """What was said so far has been read: the event loop went round, some times."""
    for _ in range(5):
        world.on_loop(lambda: None)


def test_what_waits_for_its_turn_is_read_before_what_comes_after_it(short: World, line: Line) -> None:
    held, second = Held(short), line.request(TWO)
    line.say(line.request(ONE))
    held.wait(1)
    line.say(second[:20])
    _arrived(short)
    line.say(second[20:])  # not read yet: nobody reads on while something waits
    short.on_loop(short.ways.taken[0]._fail)  # an answer in the middle of a round of the event loop
    assert (line.hear().status, held.let_go()) == (500, None)
    assert line.hear().json["id"] == 2
    eventually(settled)
