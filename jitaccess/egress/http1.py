"""HTTP/1.1 on one connection: a request as bytes, its answer as it comes in (RFC 9110, RFC 9112).

What frames an answer is read by llhttp in its strict mode: two lengths, folded lines, bare line feeds and the like end
the connection. What is not framed at all is capped here.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable, Mapping
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEADER = 8190  # bytes of one line
MAX_HEADERS = 128  # lines, trailers included
MAX_BARREN = 64 << 10  # bytes without any of a body: interim answers, a head, what surrounds chunks, trailers
HIGH_WATER = 256 << 10  # bytes that nobody took: the server has to wait

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")  # RFC 9110, 5.6.2: a token
# They frame a message or say where it goes and how it comes back: nobody but this module writes them (RFC 9112, 11.2).
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
_PRINTABLE = bytes((9, *range(32, 127)))
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})  # an answer to HEAD or CONNECT is framed otherwise
_INTERIM, _NO_CONTENT, _UNCHANGED, _SWITCHED = range(100, 200), 204, 304, 101
# Heads of answers that were read, byte by byte the same each time: their headers, and the length of what follows.
_heads: dict[bytes, tuple[dict[bytes, bytes], int]] = {}
MOST_HEADS, KNOWN_HEAD = 256, 1024  # how many, and their bytes
_OK = 200
_names: dict[str, str] = {}  # that were found to be tokens, and their lower case; a few dozen exist


class Broken(Exception):
    """The connection ended before the answer did, or what came is not HTTP."""


def request_head(method: str, path: str, host: str) -> bytes:
    """The first lines. `path` and `host` are of a URL that was read; raises ValueError for a method not spoken here."""
    if method not in _METHODS:
        raise ValueError(f"{method} is no method that is spoken here.")
    # Identity is what we ask for; some intermediaries pack all the same.
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n".encode()


def request_start(first: bytes, headers: Mapping[str, str]) -> bytes:
    """A request up to what says how long its body is; `first` is of `request_head`.

    Raises ValueError for a header whose name is no token or that frames the message, and for a value that holds a line
    break, NUL or anything else that is not printable ASCII: it could become another header, or another request.
    """
    lines, agent = [], b"User-Agent: jitaccess\r\n"
    for name, value in headers.items():
        if (_names.get(name) or _learn(name)) == "user-agent":
            agent = b""
        lines.append(f"{name}: {value}\r\n")
    try:
        head = "".join(lines).encode("ascii")
    except UnicodeEncodeError:
        raise ValueError("A header holds characters beyond ASCII.") from None
    # What is left without printable characters is the line breaks, one for each header, unless a value brought its own.
    if head.translate(None, _PRINTABLE) != b"\r\n" * len(lines):
        raise ValueError("A header holds a line break or another control character.")
    return first + agent + head


def request_bytes(start: bytes, body: bytes | None) -> bytes:
    """The whole request; `start` is of `request_start`."""
    if body is not None:
        return b"%bContent-Length: %d\r\n\r\n%b" % (start, len(body), body)
    # RFC 9110, 8.6: a method that usually has a body says that this request has none.
    return start + (b"Content-Length: 0\r\n\r\n" if start[:1] == b"P" else b"\r\n")


def _learn(name: str) -> str:
    lower = name.lower()
    if not _NAME.fullmatch(name) or lower in _OURS:
        raise ValueError("A header has a name that is none, or that is not the caller's to set.")
    if len(_names) < 1000:
        _names[name] = lower
    return lower


class Connection(asyncio.Protocol):
    """One request at a time. `status` and `headers` (lower-case names, the first of each) are of the last answer.

    `complete` says that all of the answer is here, `reusable` that another request may follow. `on_lost` is called
    once, when the transport is gone.
    """

    _paused: bool

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]) -> None:
        self._loop, self._on_lost = loop, on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._poll = select.poll()
        self._waiter: asyncio.Future[None] | None = None
        self.hears: Callable[[], None] | None = (
            None  # called instead when something has come, or the other side is gone
        )
        self._failure: str | None = None
        self.closed = False
        self.idle_since = 0.0
        self._begin()
        self.complete, self.reusable = True, True

    def ask(self, request: bytes, hears: Callable[[], None] | None = None) -> None:
        """Send. The caller then waits for `head`, or is told by `hears`. Raises Broken when the other side has hung up
        already.
        """
        if self._transport is None:
            raise Broken(self._failure or "it hung up")
        self._begin()
        self.hears = hears
        self._transport.write(request)

    async def head(self) -> None:
        """Return when `status` and `headers` of the final answer are here. Raises Broken."""
        while not self.started:
            await self._more()

    async def next(self) -> bytes:
        """What of the body has come, at least a byte; b"" at its end. Raises Broken."""
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        found = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return found

    @property
    def paused(self) -> bool:
        """Whether the other side has to wait until `next` is called."""
        return self._paused

    @property
    def body(self) -> bytes | None:
        """The whole of it, which `next` gives as well; None while it is not here."""
        if not self.complete:
            return None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def may_follow(self) -> bool:
        """Whether a next request can use the connection: nothing of this exchange is left on the way, or untold."""
        return (
            self.complete
            and self.reusable
            and not self.closed
            and not self._paused
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0  # an answer may be earlier than the end of its request
        )

    def is_quiet(self) -> bool:
        """Whether nothing has come since, not even its end: that of a server which hangs up, or what would be taken for
        the answer to the next request. The event loop tells of it only in its next round.
        """
        return not self._poll.poll(0)

    def abort(self) -> None:
        """Hang up now, whatever is still to be sent."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._buffered = self._barren = self._count = 0
        self._paused = False
        self._framed = self._said = self._touched = False
        self.started = self.complete = self.reusable = False

    def _more(self) -> asyncio.Future[None]:
        """Done when something has come, or the other side is gone."""
        if self._failure is not None or self.closed:
            raise Broken(self._failure or "it was closed")
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        if self.hears is not None:
            self.hears()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
        self.abort()
        self._wake()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self.complete:  # nobody asked: the answer to a request that another made of ours, or rubbish
            self.reusable = False
            self.abort()
            return
        if not self._touched and self._is_known(data):
            self._wake()
            return
        first, self._touched, self._said = not self._touched, True, False
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.complete:
                self._fail(f"what it answers is not HTTP: {error.__context__ or error}")
                return
            self.reusable = False  # the answer is whole; what follows it is not for us
        if not self._said:
            self._barren += len(data)
            if self._barren > MAX_BARREN and not self.complete:
                self._fail("it sends everything but a body")
        else:
            self._barren = 0
        if first and self.complete and self.reusable and self.status == _OK:
            self._learn(data)
        self._wake()

    def _is_known(self, data: bytes) -> bool:
        """Whether it is a whole answer whose head was read before: then it needs no parser, which stays before it."""
        ends = data.find(b"\r\n\r\n", 0, KNOWN_HEAD) + 4
        known = _heads.get(data[:ends]) if ends > 3 else None
        if known is None or len(data) - ends != known[1]:
            return False
        self.headers, self.status = known[0], _OK
        self._parts.append(data[ends:])
        self.started = self.complete = self.reusable = self._framed = True
        return True

    def _learn(self, data: bytes) -> None:
        ends, length = data.find(b"\r\n\r\n", 0, KNOWN_HEAD) + 4, self.headers.get(b"content-length", b"")
        if ends < 4 or b"transfer-encoding" in self.headers or not length.isdigit() or int(length) != len(data) - ends:
            return
        if int(length):
            if len(_heads) >= MOST_HEADS:
                _heads.clear()
            _heads[data[:ends]] = self.headers, int(length)

    def eof_received(self) -> bool:
        if self.started and not self._framed and self._failure is None:
            self.complete = True  # RFC 9112, 6.3: no length, so the end of the connection is the end of the body
            self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.complete and self._failure is None:
            self._failure = "it hung up" if exc is None else type(exc).__name__
        self._transport = None
        self._wake()
        self._on_lost(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        if self._count > MAX_HEADERS or len(name) + len(value) > MAX_HEADER:
            raise ValueError("too many headers, or too long a one")
        if not self.started:
            self.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status in _INTERIM:
            if status == _SWITCHED:
                raise ValueError("it changes to a protocol that nobody asked for")
            return
        if self.started or self._parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("a second answer, or another version of HTTP")
        coding = self.headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise ValueError("a Transfer-Encoding that nobody asked for")
        self._framed = coding is not None or b"content-length" in self.headers or status in (_NO_CONTENT, _UNCHANGED)
        self.status, self.started = status, True
        self.reusable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._said = True
        self._parts.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a second answer")

    def on_message_complete(self) -> None:
        if self.started:
            self.complete = True
        else:
            self.headers.clear()  # of an interim answer
