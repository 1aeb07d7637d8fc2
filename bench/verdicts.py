"""What the gateway is meant to reach beside the others, and what it did reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bench.peers import PEERS
from bench.report import Report, quantiles

if TYPE_CHECKING:
    from bench.scenarios.gateway import Measured

DIRECT, NGINX, BARE, OURS, TWIN = "direct", "nginx", "bare pass-through", "jitaccess", "jitaccess, few agents"
BUSY = (32, 128)
# How many times a peer's calls a second.
TIMES = {"contextforge": 200, "litellm": 200} | {name: 5 for name, peer in PEERS.items() if peer.bridge}
FASTMCP, FASTMCP_TIMES = ("fastmcp", "fastmcp-shared"), 25
SHARES = {BARE: 0.4, NGINX: 0.25, TWIN: 0.9}
CPU_MICROSECONDS, P99_TIMES, COMMITS, MEGABYTES = 100, 4, 1.5, 150
Found = Mapping[tuple[str, int], "Measured"]
# What, wanted, reached, whether that is enough.
Verdict = tuple[str, str, str, bool]


def judge(report: Report, found: Found, counts: list[int], commits: list[float]) -> None:
    """A row for each goal that can be told of; what was missed is told as such."""
    verdicts = [
        *_alone(found, counts, commits),
        *(one for count in BUSY if (OURS, count) in found for one in _at(found, count)),
    ]
    report.table(
        ("goal", "wanted", "reached", ""),
        [[what, wanted, reached, "" if good else "missed"] for what, wanted, reached, good in verdicts],
    )
    for what, wanted, reached, good in verdicts:
        report.goal(good, f"{what}: {reached}, wanted {wanted}")
    report.figures |= {"commit_p50_ms": commits[0], "commit_p99_ms": commits[2]}


def _alone(found: Found, counts: list[int], commits: list[float]) -> Iterator[Verdict]:
    commit = f"a commit takes {commits[0]:.2f} ms (p50; p99 {commits[2]:.2f})"
    if (OURS, 1) in found and (DIRECT, 1) in found:
        ours, direct = (quantiles(found[name, 1].latencies)[0] for name in (OURS, DIRECT))
        reached = f"{ours - direct:.2f} ms = {(ours - direct) / commits[0]:.2f} commits; {commit}"
        wanted = f"at most {COMMITS} commits"
        yield "added latency at 1 session, p50", wanted, reached, ours - direct <= COMMITS * commits[0]
    memory = max((found[OURS, count].memory for count in counts if (OURS, count) in found), default=0.0) * 2**20 / 1e6
    yield "memory of the gateway", f"at most {MEGABYTES} MB", f"{memory:.0f} MB", memory <= MEGABYTES


def _at(found: Found, count: int) -> Iterator[Verdict]:
    ours = found[OURS, count]
    for other, share in SHARES.items():
        if (other, count) in found:
            reached = ours.rate / found[other, count].rate
            yield f"calls/s beside {other}, {count} sessions", f"at least {share}", f"{reached:.2f}", reached >= share
    rates = {name: found[name, count].rate for name in PEERS if (name, count) in found}
    fastest = max((rates[name] for name in FASTMCP if name in rates), default=0.0)
    wanted = [(name, rates[name], times) for name, times in TIMES.items() if name in rates]
    for name, rate, times in [*wanted, *([("fastmcp's faster mode", fastest, FASTMCP_TIMES)] if fastest else [])]:
        reached = ours.rate / rate if rate else float("inf")
        yield f"calls/s beside {name}, {count} sessions", f"at least {times}x", f"{reached:,.0f}x", reached >= times
    used = ours.per_call(ours.used)
    yield (
        f"CPU per call, {count} sessions",
        f"at most {CPU_MICROSECONDS} µs",
        f"{used:.0f} µs",
        used <= CPU_MICROSECONDS,
    )
    p50, _, p99, _ = quantiles(ours.latencies)
    wanted_p99 = f"at most {P99_TIMES} times p50"
    yield f"p99, {count} sessions", wanted_p99, f"{p99 / p50:.1f} times ({p99:.1f} ms)", p99 <= P99_TIMES * p50
