"""Identifiers that sort by time, and bearer tokens that are stored only as hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import threading
import time
import uuid

_COUNTER_BITS = 42
_TAIL_BITS = 32
# The top bit of a counter's seed stays clear, so that a busy millisecond has 2^41 steps of room.
_SEED = (1 << (_COUNTER_BITS - 1)) - 1
_MILLIS, _LOW = (1 << 48) - 1, (1 << 30) - 1
_AT_ONCE = 1024
_UNKNOWN = uuid.SafeUUID.unknown


class _Clock:
    """Last (milliseconds, counter) handed out: RFC 9562 section 6.2 method 1, a seeded counter."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.millis = -1
        self.fixed = 0  # milliseconds, version and variant, where an id has them
        self.counter = 0
        self.random: list[int] = []

    def tick(self) -> int:
        """The next id as a number: milliseconds, counter, and a random tail, with version and variant between them."""
        with self.lock:
            random = self.random
            if len(random) < 3:
                random = self.random = _random()
            now = time.time_ns() // 1_000_000
            if now > self.millis:
                self._begin(now, (random.pop() << _TAIL_BITS | random.pop()) & _SEED)
            else:  # same millisecond, or the wall clock was set back: order wins over accuracy
                self.counter += 1
                if self.counter >> _COUNTER_BITS:
                    self._begin(self.millis + 1, 0)
            counter = self.counter
            return self.fixed | (counter >> 30) << 64 | (counter & _LOW) << _TAIL_BITS | random.pop()

    def _begin(self, millis: int, counter: int) -> None:
        self.millis, self.counter = millis, counter
        self.fixed = (millis & _MILLIS) << 80 | 0x7 << 76 | 0b10 << 62


def _random() -> list[int]:
    """Numbers of 32 bits. Many are asked of the system at once: each question hands over the interpreter, and beside a
    busy thread it comes back late.
    """
    return list(struct.unpack(f"{_AT_ONCE}I", os.urandom(4 * _AT_ONCE)))


_clock = _Clock()
# A forked worker would otherwise continue its sibling's counter, or inherit the lock while it is held.
os.register_at_fork(after_in_child=_clock.__init__)  # type: ignore[misc]  # on purpose: the same object starts anew


def uuid7() -> uuid.UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7), strictly increasing within this process, from any thread."""
    # By hand: UUID() checks its arguments for longer than all of this takes, and a call has several ids.
    made = object.__new__(uuid.UUID)
    object.__setattr__(made, "int", _clock.tick())
    object.__setattr__(made, "is_safe", _UNKNOWN)
    return made


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
