"""The stretches of time that the overview looks at, cut into the places of a chart's axis."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jitaccess.kernel.errors import Invalid


@dataclass(frozen=True, slots=True)
class Span:
    """`count` steps of time, the last of which is going on; `form` names one of them."""

    slug: str
    label: str
    step: timedelta
    count: int
    form: str

    def starts(self, at: datetime) -> list[datetime]:
        """Of the steps, the earliest first; they begin at whole steps of the day, UTC."""
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        last = midnight + (at - midnight) // self.step * self.step
        return [last - self.step * back for back in range(self.count - 1, -1, -1)]


SPANS = (
    Span("day", "24 hours", timedelta(hours=1), 24, "%H:%M"),
    Span("week", "7 days", timedelta(hours=6), 28, "%-d %b %H:%M"),
    Span("month", "30 days", timedelta(days=1), 30, "%-d %b"),
)


def span_of(slug: str) -> Span:
    """Raises Invalid."""
    for span in SPANS:
        if span.slug == (slug or "day"):
            return span
    raise Invalid("overview.span", "There is no such stretch of time.")
