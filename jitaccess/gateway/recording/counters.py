"""What calls are counted under, in /metrics. Found once: to look for one takes longer than to count."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jitaccess.audit.events import Event
from jitaccess.store import metrics

SECONDS = (*metrics.FAST, 10.0, 30.0, 60.0, float("inf"))
_AT_MOST = (*map(str, SECONDS[:-1]), "+Inf")


@cache
def allowed() -> Any:
    return metrics.CALLS.labels("allowed", "allowed")


class Ends(Collector):
    """How authorized calls ended and how long they took, in a fraction of the time that a Counter and a Histogram need
    to be told. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}
        self._took: dict[str, tuple[list[int], list[float]]] = {}

    def count(self, event: Event, server_name: str, seconds: float | None) -> None:
        """One more. `seconds` None: nothing of it was sent."""
        with self._lock:
            self._ended[event] = self._ended.get(event, 0) + 1
            if seconds is not None:
                found = self._took.get(server_name)
                if found is None:
                    found = self._took[server_name] = [0] * len(SECONDS), [0.0]
                found[0][bisect_left(SECONDS, seconds)] += 1
                found[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            ended = dict(self._ended)
            took = {name: (list(accumulate(counts)), total[0]) for name, (counts, total) in self._took.items()}
        endings = CounterMetricFamily("jitaccess_call_endings", "Authorized calls by how they ended.", labels=["event"])
        for event, count in ended.items():
            endings.add_metric([event], count)
        yield endings
        seconds = HistogramMetricFamily(
            "jitaccess_forward_seconds", "From the decision to the end of an authorized call.", labels=["server"]
        )
        for name, (counts, total) in took.items():
            seconds.add_metric([name], list(zip(_AT_MOST, counts, strict=True)), total)
        yield seconds


ends = Ends()
metrics.REGISTRY.register(ends)
