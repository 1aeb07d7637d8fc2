"""What calls are counted under, in /metrics. Found once: to look for one takes longer than to count."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from jitaccess.audit.events import Event
from jitaccess.store import metrics


@cache
def allowed() -> Any:
    return metrics.CALLS.labels("allowed", "allowed")


@cache
def ended(event: Event) -> Any:
    return metrics.CALL_ENDINGS.labels(event)


@lru_cache(1024)
def seconds_of(server_name: str) -> Any:
    return metrics.FORWARD_SECONDS.labels(server_name)
