"""How much one principal may ask of one process: requests a minute, requests at once, and one call again and again.

All of it is kept in memory that is bounded, belongs to one event loop, and counts in this process alone: behind N
processes a principal may have up to N times as much.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from django.conf import settings

from jitaccess.gateway import wire
from jitaccess.gateway.wire import RpcError
from jitaccess.store import metrics

# Of one principal in one process; more would be its neighbours' turn.
MAX_IN_FLIGHT = 32
MAX_READING = 32
MOST_PRINCIPALS = 20_000
MOST_CALLS = 10_000
REPEAT_SECONDS = 60.0
# A caller that says the same so often in a minute goes round in circles: on record at each power of ten.
FLAGGED = frozenset({10, 100, 1_000, 10_000, 100_000})
# Words of one principal that are passed on to other processes: each is written to the database, for each of them.
MAIL_PER_MINUTE, MAIL_BURST = 300, 64
# A member of the error's data, and the seconds of Retry-After (RFC 9110, 10.2.3).
RETRY_AFTER = "retry_after_seconds"

Clock = Callable[[], float]


class Rate:
    """`per_minute` requests of each key, after up to `burst` at once; 0 a minute: as many as one likes.

    A leaky bucket as a single number, the moment at which it is empty again (GCRA, ITU-T I.371).
    """

    __slots__ = ("_clock", "_empty_at", "_interval", "_most", "_tolerance", "per_minute")

    def __init__(
        self, *, per_minute: int, burst: int, most: int = MOST_PRINCIPALS, clock: Clock = time.monotonic
    ) -> None:
        self.per_minute = per_minute
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._tolerance = self._interval * (max(burst, 1) - 1)
        self._most, self._clock = most, clock
        self._empty_at: dict[str, float] = {}

    def take(self, key: str) -> float:
        """0.0 and the request counts; or the seconds until the next one would, and it does not count."""
        if not self._interval:
            return 0.0
        now = self._clock()
        empty_at = max(self._empty_at.get(key, now), now)
        wait = empty_at - now - self._tolerance
        if wait > 1e-9:  # less is how floats add up
            return wait
        if key not in self._empty_at and len(self._empty_at) >= self._most:
            self._make_room(now)
        self._empty_at[key] = empty_at + self._interval
        return 0.0

    def _make_room(self, now: float) -> None:
        """Without those whose bucket is empty anyway; if nobody's is, without the oldest quarter."""
        kept = {key: at for key, at in self._empty_at.items() if at > now}
        if len(kept) >= self._most:
            for key in list(kept)[: self._most // 4]:
                del kept[key]
        self._empty_at = kept


class Repeats:
    """How often each same call was made, within a minute from the first of them; the calls made last are kept."""

    __slots__ = ("_calls", "_clock", "_most")

    def __init__(self, *, most: int = MOST_CALLS, clock: Clock = time.monotonic) -> None:
        self._calls: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()
        self._most, self._clock = most, clock

    def count(self, *call: object) -> tuple[int, float]:
        """Which one this is, from 1 on, and in how many seconds counting begins anew."""
        now = self._clock()
        began, times = self._calls.get(call, (now, 0))
        if now - began >= REPEAT_SECONDS:
            began, times = now, 0
        self._calls[call] = (began, times + 1)
        self._calls.move_to_end(call)
        if len(self._calls) > self._most:
            self._calls.popitem(last=False)
        return times + 1, began + REPEAT_SECONDS - now


class Limits:
    """Those of one gateway process. What is beyond them is answered with 429, and how long to wait."""

    def __init__(self, *, per_minute: int, burst: int, clock: Clock = time.monotonic) -> None:
        self.rate = Rate(per_minute=per_minute, burst=burst, clock=clock)
        self.repeats = Repeats(clock=clock)
        self.mail = Rate(per_minute=MAIL_PER_MINUTE, burst=MAIL_BURST, clock=clock)
        self.reading: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()

    @classmethod
    def configured(cls) -> Limits:
        """As settings have them."""
        return cls(per_minute=settings.RATE_PER_MINUTE, burst=settings.RATE_BURST)

    def admit(self, key: str) -> None:
        """Count a request of this principal. Raises RpcError(429) when it comes too early."""
        if wait := self.rate.take(key):
            raise too_many("rate", f"At most {self.rate.per_minute} requests a minute are served here.", wait)

    def send(self, key: str) -> None:
        """Count what is passed on for this principal to other processes. Raises RpcError(429) when that is too much."""
        if wait := self.mail.take(key):
            raise too_many("mail", f"At most {MAIL_PER_MINUTE} messages a minute are passed on between gateways.", wait)


class one_more:  # noqa: N801 - read like a function
    """Count a principal's request while it lasts. Raises RpcError(429) when there are `limit` already."""

    __slots__ = ("_counted", "_counter", "_key", "_limit")

    def __init__(self, counter: Counter[str], key: str, *, limit: int, counted: bool = False) -> None:
        """`counted`: it is, already."""
        self._counter, self._key, self._limit, self._counted = counter, key, limit, counted

    def __enter__(self) -> None:
        if self._counted:
            return
        now = self._counter.get(self._key, 0)
        if now >= self._limit:
            raise too_many("at_once", f"At most {self._limit} requests may be in progress at once.", 1.0)
        self._counter[self._key] = now + 1

    def __exit__(self, *_: object) -> None:
        left = self._counter[self._key] - 1
        if left:
            self._counter[self._key] = left
        else:
            self._counter.pop(self._key)  # `del` of a Counter is a call of its own


def too_many(limit: str, detail: str, wait: float) -> RpcError:
    """A refusal that says when to try again; `limit` is its label in /metrics."""
    metrics.LIMITED.labels(limit).inc()
    seconds = max(math.ceil(wait), 1)
    return RpcError(
        wire.INVALID_REQUEST,
        f"{detail} Wait {seconds} second{'s' * (seconds > 1)}, then try again.",
        status=429,
        data={"reason_code": "rate_limited", RETRY_AFTER: seconds},
    )
