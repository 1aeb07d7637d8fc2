"""Who is on call, from what a schedule says: no state, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

Person = TypeVar("Person")
# What a webhook said is believed for so long; then nobody is on call, and nobody is asked in the name of it.
FRESH = timedelta(minutes=10)


def on_call(people: Sequence[Person], *, starts_at: datetime, hours: int, at: datetime) -> Person | None:
    """Whose turn of `hours` it is, in the order of `people`, over and over; nobody before `starts_at`."""
    if not people or hours < 1 or at < starts_at:
        return None
    return people[(at - starts_at) // timedelta(hours=hours) % len(people)]


def is_fresh(fetched_at: datetime | None, *, at: datetime) -> bool:
    """Whether what was fetched then still counts. A moment in the future is a clock that was set back: it does not."""
    return fetched_at is not None and timedelta() <= at - fetched_at <= FRESH
