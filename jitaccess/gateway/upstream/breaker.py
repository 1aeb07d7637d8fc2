"""When to leave a server alone: after failures it is not asked for a while, then by one at a time until it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import UpstreamError

BACKOFF_SECONDS = (1.0, 60.0)  # after the first failure that counts, and at most
FREE_CALLS = 4  # so many calls in a row may fail
EVERYBODY = "*"
PROBE_SECONDS = 5.0  # a probe that is not heard of for so long holds up no other
# Nobody there, or nobody who answers. A server that answers, whatever it says, is there.
_COUNTED = frozenset({"upstream.unavailable", "upstream.died", "upstream.timeout"})
_NEUTRAL = frozenset({"upstream.busy", "upstream.too_late", "upstream.cancelled"})


@dataclass(slots=True)
class Breaker:
    """Closed while all is well, open until `retry_at` after failures, then half open: one may try (a circuit breaker).

    Failed starts, early deaths and failed calls count together; what forgives them differs. A call may be slow or
    fail because of what it asks: while nobody but one caller met with that, it opens for that one alone, who must not
    be able to take the server from everybody. `clock` is in seconds.
    """

    clock: Callable[[], float]
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    _by_call: bool = False
    _probed_until: float = 0.0
    _callers: set[str] = field(default_factory=set)

    @property
    def closed(self) -> bool:
        return not self.retry_at

    @property
    def for_everybody(self) -> bool:
        return EVERYBODY in self._callers or len(self._callers) > 1

    def wait(self, caller: str = "") -> float:
        """0.0: go ahead, and tell what came of it. Else the seconds until somebody may try."""
        if self.closed or not (self.for_everybody or caller in self._callers):
            return 0.0
        now = self.clock()
        if now >= max(self.retry_at, self._probed_until):
            self._probed_until = now + PROBE_SECONDS
            return 0.0
        return max(self.retry_at, self._probed_until) - now

    def failed(self, reason: str, *, free: int = 0, by_call: bool = False, caller: str = EVERYBODY) -> bool:
        """Whether it opens with this failure, which is beyond `free` in a row."""
        now = self.clock()
        self._callers.add(caller)
        if now < self.retry_at:
            return False  # many failed at once: that is one failure
        self.failures += 1
        self.reason, self._by_call, self._probed_until = reason, by_call, 0.0
        if self.failures <= free and self.closed:
            return False
        first, most = BACKOFF_SECONDS
        self.retry_at = now + min(most, first * 2 ** min(max(self.failures - free - 1, 0), 16))
        return True

    def started(self, *, forgive: bool) -> None:
        """A start worked. What calls met with, only a call can forgive; without `forgive`, failures go on counting."""
        if not self._by_call:
            self.retry_at = self._probed_until = 0.0
            self.failures = 0 if forgive else self.failures
            self._callers.clear()

    def forget(self) -> None:
        self.failures, self.retry_at, self._by_call, self._probed_until = 0, 0.0, False, 0.0
        self._callers.clear()

    def answered(self, error: UpstreamError | None, caller: str = "") -> bool:
        """What came of a call, None when the server answered it. Whether it opens with this."""
        if error is None or error.code not in _COUNTED | _NEUTRAL:
            if self._by_call:
                self.forget()
        elif error.code in _COUNTED:
            reason = f"{self.failures + 1} calls in a row failed, the last like this: {error.detail}"
            # What a server was given it may fail at because of what that is.
            theirs = error.code == "upstream.timeout" or error.sent
            return self.failed(reason, free=FREE_CALLS, by_call=True, caller=caller if theirs else EVERYBODY)
        return False
