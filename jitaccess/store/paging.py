"""Part of a list, latest first, between rows that are named by their keys: stable while rows are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from django.db import models

Row = TypeVar("Row", bound=models.Model)


@dataclass(frozen=True, slots=True)
class Part(Generic[Row]):
    """`newer` and `older`: the key after or before which the neighbouring parts begin, if any."""

    rows: list[Row]
    newer: UUID | None
    older: UUID | None


def part_of(
    rows: models.QuerySet[Row], *, before: UUID | None = None, after: UUID | None = None, size: int = 50
) -> Part[Row]:
    """At most `size` rows made before or after the one with this key, or the latest; keys are UUIDv7. One query."""
    if after:
        found = list(rows.filter(pk__gt=after).order_by("pk")[: size + 1])
        more, found = len(found) > size, found[:size][::-1]
    else:
        found = list((rows.filter(pk__lt=before) if before else rows).order_by("-pk")[: size + 1])
        more, found = len(found) > size, found[:size]
    newer, older = (more, True) if after else (before is not None, more)
    return Part(
        found,
        newer=found[0].pk if found and newer else None,
        older=found[-1].pk if found and older else None,
    )
