"""What comes back on a connection: read piece by piece with suspicion, or heard of when it is here as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

from .errors import EgressFailed
from .http1 import Broken, Connection

MAX_BODY = 8 << 20  # bytes, as sent and as unpacked
_PIECE = 64 << 10
_OK = 200
_IN_JSON = (b"application/json", b"application/json; charset=utf-8")


class Response:
    """An answer whose body was not read yet. `status` as it came: a redirect is an answer, not an order."""

    __slots__ = ("_closed", "_connection", "_done", "_headers", "status")

    def __init__(self, connection: Connection, done: Callable[[Connection], None]) -> None:
        self._connection, self._done = connection, done
        self._closed = False
        self.status, self._headers = connection.status, connection.headers

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1").strip()

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self._headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()

    async def chunks(self, limit: int | None = MAX_BODY) -> AsyncGenerator[bytes, None]:
        """The body in pieces, unpacked. Raises EgressFailed: broken, encoding, or too_large beyond `limit` bytes."""
        unpack = _unpacker(self.header("content-encoding") or "")
        size = 0
        try:
            while received := await self._connection.next():
                for chunk in unpack(received):
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise EgressFailed("egress.too_large", f"The answer is larger than {limit} bytes.")
                    yield chunk
        except Broken as error:
            raise EgressFailed("egress.broken", f"The answer broke off ({error}).") from error
        except zlib.error as error:
            raise EgressFailed("egress.encoding", "The answer cannot be unpacked.") from error

    async def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises EgressFailed as `chunks`."""
        if self._connection.complete and b"content-encoding" not in self._headers:
            body = await self._connection.next()
            if len(body) > limit:
                raise EgressFailed("egress.too_large", f"The answer is larger than {limit} bytes.")
            return body
        return b"".join([chunk async for chunk in self.chunks(limit)])

    @property
    def at_end(self) -> bool:
        """Whether the body came to its end."""
        return self._connection.complete

    async def skip(self, seconds: float) -> None:
        """Read on to the end, for at most `seconds` and a little more body, so that the connection can be kept."""
        with contextlib.suppress(TimeoutError, Broken):
            async with asyncio.timeout(seconds):
                size = 0
                while received := await self._connection.next():
                    size += len(received)
                    if size > _PIECE:
                        break

    def close(self) -> None:
        """Hang up, unless the body came to its end: then the connection is kept for the next. Idempotent."""
        if not self._closed:
            self._closed = True
            self._done(self._connection)


class Sent:
    """A request that has gone out, and whose answer may be here: see `Client.ask`."""

    __slots__ = ("_answered", "_closed", "_done", "connection")

    def __init__(
        self,
        connection: Connection,
        answered: Callable[[Connection], Awaitable[Response]],
        done: Callable[[Connection], None],
    ) -> None:
        self.connection, self._answered, self._done = connection, answered, done
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether the answer is here as a whole, or no more of it will come."""
        return self.connection.complete or self.connection.closed

    @property
    def other(self) -> bool:
        """Whether it is not what `body` is for."""
        connection = self.connection
        if connection.paused:  # it is larger than what is held for nobody
            return True
        return connection.started and connection.headers.get(b"content-type") not in _IN_JSON

    async def answered(self) -> Response:
        """As `Client.send`, for who waits after all. Raises EgressFailed."""
        self.connection.hears = None
        return await self._answered(self.connection)

    def body(self, limit: int) -> bytes | None:
        """Of an answer in JSON that is here as a whole, as it should be (200), and of at most `limit` bytes; else None:
        then it is for `answered`.
        """
        connection = self.connection
        if not connection.complete or connection.status != _OK or b"content-encoding" in connection.headers:
            return None
        if connection.headers.get(b"content-type") not in _IN_JSON:
            return None
        body = connection.body
        return body if body is not None and len(body) <= limit else None

    def close(self) -> None:
        """The answer was read: the connection is kept for the next. Idempotent."""
        if not self._closed:
            self._closed, self.connection.hears = True, None
            self._done(self.connection)


def _unpacker(named: str) -> Callable[[bytes], Iterator[bytes]]:
    named = named.strip().lower()
    if named in {"", "identity"}:
        return lambda received: iter((received,))
    if named not in {"gzip", "x-gzip", "deflate"}:
        raise EgressFailed("egress.encoding", "The answer has a Content-Encoding that was not asked for.")
    packed = zlib.decompressobj(wbits=47)

    def unpack(received: bytes) -> Iterator[bytes]:
        piece = b""
        while not packed.eof and (received or len(piece) == _PIECE):
            # In small pieces, so that a bomb is noticed before it is unpacked.
            piece = packed.decompress(received, _PIECE)
            received = packed.unconsumed_tail
            if piece:
                yield piece

    return unpack
