"""Pages of what concerns one person, out of tables that only grow: looked for among the latest first.

Somebody whom most requests concern finds a page among the latest few; to gather all of theirs would take seconds.
Somebody whom few concern has to have all of theirs gathered, which are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet

from jitaccess.store.paging import Part, part_of

Row = TypeVar("Row", bound=Model)
# So many rows of the table are looked at before the next, wider look; the last is at everything.
WIDTHS = (2_000, 40_000)


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from `low` to `high`, both included; None: to the end."""

    low: UUID | None = None
    high: UUID | None = None

    @property
    def whole(self) -> bool:
        return self.low is None and self.high is None

    def of(self, name: str) -> Q:
        """Where the column `name` is in it."""
        ends = {f"{name}__gte": self.low, f"{name}__lte": self.high}
        return Q(**{end: key for end, key in ends.items() if key is not None})


def part_near(
    table: QuerySet[Row],
    rows: Callable[[Span], QuerySet[Row]],
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
) -> Part[Row]:
    """As part_of, of `rows`, which are those of `table` with a key in the span that are wanted."""
    for width in WIDTHS:
        span = _span(table, width, before=before, after=after)
        if span.whole:
            break
        part = part_of(rows(span), before=before, after=after, size=size)
        if part.newer if after else part.older:  # it is full, and wider would begin with the same
            return part
    return part_of(rows(Span()), before=before, after=after, size=size)


def _span(table: QuerySet[Row], width: int, *, before: UUID | None, after: UUID | None) -> Span:
    """The next `width` rows of the table in the direction of the page; the whole one when it has not so many."""
    if after:
        ahead = table.filter(pk__gt=after).order_by("pk")
        edge = ahead.values_list("pk", flat=True)[width : width + 1].first()
        return Span(after, edge) if edge else Span()
    ahead = (table.filter(pk__lt=before) if before else table).order_by("-pk")
    edge = ahead.values_list("pk", flat=True)[width : width + 1].first()
    return Span(edge, before) if edge else Span()
