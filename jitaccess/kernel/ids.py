"""Identifiers that sort by time, and bearer tokens that are stored only as hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
import uuid

_COUNTER_BITS = 42
_TAIL_BITS = 32
# The top bit of a counter's seed stays clear, so that a busy millisecond has 2^41 steps of room.
_SEED = (1 << (_COUNTER_BITS - 1)) - 1
_MILLIS, _LOW = (1 << 48) - 1, (1 << 30) - 1


class _Clock:
    """Last (milliseconds, counter) handed out: RFC 9562 section 6.2 method 1, a seeded counter."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.millis = -1
        self.counter = 0
        self.random, self.at = b"", 0

    def tick(self) -> int:
        """The next id as a number: milliseconds, counter, and a random tail, with version and variant between them."""
        with self.lock:
            now = time.time_ns() // 1_000_000
            if now > self.millis:
                self.millis, self.counter = now, self._draw(6) & _SEED
            else:  # same millisecond, or the wall clock was set back: order wins over accuracy
                self.counter += 1
                if self.counter >> _COUNTER_BITS:
                    self.millis, self.counter = self.millis + 1, 0
            counter = self.counter
            value = (self.millis & _MILLIS) << 80 | 0x7 << 76 | (counter >> 30) << 64 | 0b10 << 62
            return value | (counter & _LOW) << _TAIL_BITS | self._draw(4)

    def _draw(self, size: int) -> int:
        """So many random bytes as a number. Many are asked of the system at once: each question hands over the
        interpreter, and beside a busy thread it comes back late.
        """
        if self.at + size > len(self.random):
            self.random, self.at = os.urandom(4096), 0
        self.at += size
        return int.from_bytes(self.random[self.at - size : self.at])


_clock = _Clock()
# A forked worker would otherwise continue its sibling's counter, or inherit the lock while it is held.
os.register_at_fork(after_in_child=_clock.__init__)  # type: ignore[misc]  # on purpose: the same object starts anew


def uuid7() -> uuid.UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7), strictly increasing within this process, from any thread."""
    return uuid.UUID(int=_clock.tick())


def uuid7_hex() -> str:
    """The same as 32 hexadecimal digits, where a great many are written down."""
    return f"{_clock.tick():032x}"


def new_token(prefix: str) -> str:
    """Return `prefix` + "_" + 43 URL-safe characters that carry 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def token_hash(token: str) -> str:
    """Return the SHA-256 of `token` in hex, the only form that is stored. Takes any text, never raises.

    A plain hash is enough: a token has 256 random bits, so there is nothing to guess offline.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
