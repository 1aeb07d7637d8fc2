"""Pages of what concerns one person, out of tables that only grow: looked for among the latest first.

Somebody whom most requests concern finds a page among the latest few; to gather all of theirs would take seconds.
Somebody whom few concern has to have all of theirs gathered, which are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from jitaccess.store.paging import Part, part_of

Row = TypeVar("Row", bound=Model)
# So many rows of the table are looked at first.
WIDTH = 20_000
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Span:
    """Keys between two others, both included: keys, or what the database finds for them. None: to the end."""

    low: Any = None
    high: Any = None

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
    """As part_of, of `rows`, which are those of `table` with a key in the span that are wanted. One or two queries."""
    near = part_of(rows(_span(table, before=before, after=after)), before=before, after=after, size=size)
    if near.newer if after else near.older:  # it is full, and wider would begin with the same
        return near
    return part_of(rows(Span()), before=before, after=after, size=size)


def _span(table: QuerySet[Row], *, before: UUID | None, after: UUID | None) -> Span:
    """The next `WIDTH` rows of the table in the direction of the page."""
    if after:
        ahead = table.filter(pk__gt=after).order_by("pk")
        return Span(after, Coalesce(Subquery(ahead.values("pk")[WIDTH : WIDTH + 1]), Value(_LAST)))
    ahead = (table.filter(pk__lt=before) if before else table).order_by("-pk")
    return Span(Coalesce(Subquery(ahead.values("pk")[WIDTH : WIDTH + 1]), Value(_FIRST)), before)
