"""Does this machine's clock run, or has somebody moved it? Asked of a clock that cannot be set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

JUMP_SECONDS = 2.0
# Time daemons slew a clock by at most this much of the time that passes.
SLEW = 0.001
# How long one comparison goes on: a slew must not add up to something that looks like a jump, nor hide one.
BASELINE_SECONDS = 600.0
# Two readings within this time are of one moment.
READ_SECONDS = 0.5


# Seconds since some moment, on a clock that nobody can set and that a suspended machine does not stop.
steady: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


class HostClock:
    """Compares the wall clock with the steady one, from the moment it is made. Thread-safe.

    `wall` and `steady` return seconds.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._begin, self._ahead = self._read()

    def drift(self) -> float:
        """By how many seconds the wall clock has run ahead of the steady one since the comparison began."""
        return self._read()[1] - self._ahead

    def jump(self) -> float:
        """The seconds of a jump, negative for one back, 0.0 for none; each is told once, to one caller."""
        with self._lock:
            now, ahead = self._read()
            drift, passed = ahead - self._ahead, now - self._begin
            jumped = abs(drift) > JUMP_SECONDS + SLEW * passed
            if jumped or passed >= BASELINE_SECONDS:
                self._begin, self._ahead = now, ahead
            return drift if jumped else 0.0

    def _read(self) -> tuple[float, float]:
        """The steady clock, and how far the other is ahead of it: read at one moment, although a process may be
        frozen between any two of its steps.
        """
        while True:
            before, wall, after = self._steady(), self._wall(), self._steady()
            if after - before < READ_SECONDS:
                return after, wall - after
