"""Server-sent events, as far as MCP uses them (WHATWG HTML, "Server-sent events"); no resumption."""

from __future__ import annotations

import re

MAX_EVENT = 8 << 20  # bytes of one event, the line in progress included

_BREAK = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class TooLargeError(ValueError):
    """One event is larger than MAX_EVENT."""


class EventParser:
    """Fed with bytes in any pieces, gives the data of each "message" event as soon as its blank line is here."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._kind = b""
        self._first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes. Raises TooLargeError."""
        if self._after_cr and chunk[:1] == b"\n":  # CR LF, cut in two
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        events: list[bytes] = []
        *pieces, rest = _BREAK.split(chunk)
        for piece in pieces:
            self._grow(piece)
            line = bytes(self._line)
            self._line.clear()
            if self._first:
                self._first, line = False, line.removeprefix(_BOM)
            if line:
                self._take(line)
            else:
                self._dispatch(events)
        self._grow(rest)
        return events

    def _grow(self, piece: bytes) -> None:
        self._line += piece
        if self._size + len(self._line) > MAX_EVENT:
            raise TooLargeError

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._kind = value
        # Comments (an empty name), id, retry and what is unknown say nothing to us.

    def _dispatch(self, events: list[bytes]) -> None:
        data = b"\n".join(self._data)
        # Without data there is no event: that is how a stream is primed or kept alive.
        if data and self._kind in (b"", b"message"):
            events.append(data)
        self._data.clear()
        self._size, self._kind = 0, b""
