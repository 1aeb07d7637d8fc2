"""Answers whose head was read before, and requests for which nobody waits: the same as by the other way."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.egress import client as client_module
from jitaccess.egress import http1
from jitaccess.egress.client import Client
from jitaccess.egress.http1 import Broken
from jitaccess.egress.response import Sent
from tests.egress.test_http1 import Talk, fetch, request, run, says, speaking

pytestmark = pytest.mark.pure

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
OK = HEAD % 2 + b"{}"


def answering(*answers: bytes, cuts: tuple[int, ...] = ()) -> Talk:
    """Each answer in turn; cut there, with the other side's turn between."""
    turn = itertools.cycle(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            answer = next(turn)
            edges = [0, *(cut for cut in cuts if cut < len(answer)), len(answer)]
            for start, end in itertools.pairwise(edges):
                writer.write(answer[start:end])
                await writer.drain()
                await asyncio.sleep(0.001 if cuts else 0)

    return talk


class Heard:
    """Who is told instead of waiting."""

    def __init__(self) -> None:
        self.times, self.more = 0, asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self.more.set()


async def asked(client: Client, url: str, *, permit: bool = True) -> tuple[Sent | None, Heard]:
    heard = Heard()
    kind = client.prepare("POST", url, {"X-One": "1"})
    assert kind is not None
    return client.ask(kind, b"{}", permit=lambda: permit, hears=heard), heard


async def body_of(sent: Sent, heard: Heard) -> bytes | None:
    while not sent.ended:
        heard.more.clear()
        await heard.more.wait()
    return sent.body(1 << 20)


@given(
    st.lists(st.sampled_from([OK, HEAD % 4 + b"null", HEAD % 2 + b"[]", b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno"]),
             min_size=1, max_size=5),
    st.lists(st.integers(1, 80), max_size=3, unique=True),
)  # fmt: skip
def test_answers_are_the_same_however_often_their_heads_came_and_wherever_they_are_cut(
    answers: list[bytes], cuts: list[int]
) -> None:
    async def work() -> None:
        http1._heads.clear()
        async with speaking(answering(*answers, cuts=tuple(sorted(cuts)))) as (server, client):
            for answer in answers * 3:
                head, _, body = answer.partition(b"\r\n\r\n")
                assert await fetch(client, server.url) == (int(head.split()[1]), body)
            assert server.connections == 1

    run(work())


def test_a_head_that_came_before_is_no_longer_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        http1._heads.clear()
        parsed: list[bool] = []
        usual = http1.Connection.on_headers_complete
        monkeypatch.setattr(http1.Connection, "on_headers_complete", lambda self: (parsed.append(True), usual(self))[1])
        async with speaking(answering(OK)) as (server, client):
            for _ in range(3):
                assert await fetch(client, server.url) == (200, b"{}")
        assert len(parsed) == 1

    run(work())


@pytest.mark.parametrize("rest", [b"", b"{", b"{}{}", b"{}" + OK])
def test_a_known_head_with_another_body_is_read_as_strictly_as_ever(rest: bytes) -> None:
    """Shorter: it breaks off. Longer: it is no connection for the next."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await request(reader)
        writer.write(HEAD % 2 + rest)
        await writer.drain()

    async def work() -> None:
        http1._heads.clear()
        async with speaking(talk) as (server, client):
            assert await fetch(client, server.url) == (200, b"{}")
            response = await client.send("POST", server.url, headers={}, body=b"{}")
            if len(rest) < 2:
                with pytest.raises(client_module.EgressFailed):
                    await response.read()
            else:
                assert await response.read() == b"{}"
            response.close()
            assert not client._kept.get(("http", server.url.rpartition("/")[0]))

    run(work())


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 500 Bad\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: %b\r\nContent-Length: 2\r\n\r\n" % (b"x" * 2000),
    ],
)
def test_a_head_that_frames_otherwise_or_says_more_is_not_remembered(head: bytes) -> None:
    async def work() -> None:
        http1._heads.clear()
        async with speaking(says(head + (b"2\r\n{}\r\n0\r\n\r\n" if b"chunked" in head else b"{}"))) as (
            server,
            client,
        ):
            await fetch(client, server.url)
            await fetch(client, server.url)
        assert not http1._heads

    run(work())


def test_who_does_not_wait_is_told_when_the_answer_is_here() -> None:
    async def work() -> None:
        async with speaking(answering(OK, cuts=(10, 60))) as (server, client):
            assert client.prepare("POST", server.url, {}) is None, "nobody has been there yet"
            await fetch(client, server.url)
            for _ in range(3):
                sent, heard = await asked(client, server.url)
                assert sent is not None
                assert await body_of(sent, heard) == b"{}"
                assert heard.times >= 1
                sent.close()
                sent.close()
            assert server.connections == 1
            assert not client._busy

    run(work())


def test_who_may_not_send_any_more_has_sent_nothing() -> None:
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request(reader))
            writer.write(OK)

    async def work() -> None:
        async with speaking(talk) as (server, client):
            await fetch(client, server.url)
            sent, heard = await asked(client, server.url, permit=False)
            assert sent is None
            assert heard.times == 0
            await fetch(client, server.url)
            assert len(seen) == 2
            assert server.connections == 1, "the connection is as it was"

    run(work())


def test_who_waits_after_all_gets_the_answer_or_what_went_wrong() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (OK, OK, b""):
            await request(reader)
            writer.write(answer)
            await writer.drain()

    async def work() -> None:
        async with speaking(talk) as (server, client):
            await fetch(client, server.url)
            sent, _ = await asked(client, server.url)
            assert sent is not None
            response = await sent.answered()
            assert await response.read() == b"{}"
            response.close()
            sent, heard = await asked(client, server.url)
            assert sent is not None
            with pytest.raises(client_module.EgressFailed) as caught:
                await sent.answered()
            assert caught.value.sent
            assert isinstance(caught.value.__cause__, Broken)
            assert heard.times == 0, "nobody is told besides"

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_no_plain_answer_is_left_to_who_waits(answer: bytes) -> None:
    async def work() -> None:
        async with speaking(answering(OK, answer)) as (server, client):
            await fetch(client, server.url)
            sent, heard = await asked(client, server.url)
            assert sent is not None
            assert await body_of(sent, heard) is None
            response: Any = await sent.answered()
            assert response.status in (200, 500)
            response.close()

    run(work())
