from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.gateway.upstream import sse
from jitaccess.gateway.upstream.sse import EventParser, TooLargeError


def events(*chunks: bytes) -> list[bytes]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: {\ndata: }\n\n", [b"{\n}"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b": comment\ndata: a\n:\n\n", [b"a"]),
        (b":\r\n\r\n:\r\n\r\n", []),
        (b"event: message\nid: 1\nretry: 10\nunknown\ndata: a\n\n", [b"a"]),
        (b"event: endpoint\ndata: /sse\n\ndata: a\n\n", [b"a"]),
        (b"id: 1\ndata:\n\n", []),
        (b"data\n\n", []),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"data: a\nevent: message", []),
        (b"DATA: a\n\n", []),
        (b" data: a\n\n", []),
        ("data: \u2028ä\n\n".encode(), ["\u2028ä".encode()]),
        (b"data: a\x0bb\x1cc\x85\n\n", [b"a\x0bb\x1cc\x85"]),
    ],
)
def test_a_stream_is_read_as_the_standard_says_whatever_pieces_it_comes_in(stream: bytes, found: list[bytes]) -> None:
    assert events(stream) == found
    assert events(*(bytes([byte]) for byte in stream)) == found


@given(
    st.lists(st.sampled_from([b"data: a", b"data:b", b"data", b": c", b"event: x", b"event: message", b"", b"", b"\xef\xbb\xbf"])),
    st.data(),
)  # fmt: skip
def test_any_chunking_gives_the_same_events(lines: list[bytes], data: Any) -> None:
    stream = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r", b"\r\n"])) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(*pieces) == events(stream)


@given(st.lists(st.lists(st.text() | st.integers(), max_size=3), max_size=4))
def test_what_was_sent_as_events_is_what_arrives(values: list[Any]) -> None:
    stream = b"".join(b"event: message\ndata: " + json.dumps(value).encode() + b"\n\n" for value in values)
    assert [json.loads(event) for event in events(stream)] == values


def test_an_event_is_here_with_its_blank_line_and_not_later() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\r") == [b"a"]  # no waiting for a line feed that may never come
    assert parser.feed(b"\ndata: b\n\n") == [b"b"]


@pytest.mark.parametrize("piece", [b"x", b"data: y\n", b"data:\n"])
def test_an_event_without_end_is_given_up(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 1000)
    parser = EventParser()
    with pytest.raises(TooLargeError):
        for _ in range(1001):
            assert parser.feed(piece) == []


def test_many_small_events_are_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 20)
    assert len(events(*[b"data: 12345\n\n"] * 100)) == 100
