"""What holds in every scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bench.client import CUT, Answer
from bench.place import Place
from bench.report import Report


def check_upstream(report: Report, place: Place, answers: Iterable[Answer]) -> dict[str, list[float]]:
    """An allowed call reached the upstream once, a refused one never, a cut one perhaps. Returns what was received."""
    received = place.received()
    for one in answers:
        times = len(received.get(one.nonce, ()))
        report.check(
            times == one.allowed or (one.code == CUT and times <= 1),
            f"{one.nonce} ({one.tool}) was {one.code} and reached the upstream {times}x",
        )
    return received


def codes(answers: Iterable[Answer]) -> str:
    """How often calls were answered how, such as "allowed 10, revoked 2"."""
    return ", ".join(f"{code} {count:,}" for code, count in Counter(one.code for one in answers).most_common())
