"""Ids on the command line: whole ones, or the beginning of one as lists show it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar
from uuid import UUID

from django.db import models

from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.text import visible

_HEX = re.compile(r"[0-9a-f]{4,32}")
# The time in milliseconds, which is how UUIDv7 begins: enough to tell apart what was not made at the same moment.
_SHORT = 13
Row = TypeVar("Row", bound=models.Model)


def span(text: str) -> tuple[UUID, UUID]:
    """The first and the last id that begin with `text`. Raises Invalid."""
    digits = text.strip().lower().replace("-", "")
    if not _HEX.fullmatch(digits):
        raise Invalid("id.malformed", f'"{visible(text, limit=60)}" is not an id: give one, or its first 4 characters.')
    return UUID(hex=digits.ljust(32, "0")), UUID(hex=digits.ljust(32, "f"))


def row_of(rows: models.QuerySet[Row], text: str, what: str) -> Row:
    """The one row whose id is `text` or begins with it. Raises NotFound, and Invalid when there are several."""
    low, high = span(text)
    found = list(rows.filter(pk__gte=low, pk__lte=high).order_by("pk")[:6])
    ensure_one([str(row.pk) for row in found], text, what)
    return found[0]


def ensure_one(ids: list[str], text: str, what: str) -> None:
    """Raises as row_of unless there is exactly one."""
    if not ids:
        raise NotFound(f"{what}.unknown", f"There is no {what} {visible(text, limit=60)}.")
    if len(ids) > 1:
        several = ", ".join(ids[:5])
        raise Invalid("id.ambiguous", f"Several {what}s begin with {visible(text, limit=60)}: {several}.")


def shortened(ids: Iterable[str]) -> Mapping[str, str]:
    """The beginning of each id that tells it from the others here."""
    every = sorted(set(ids))
    short = {}
    for at, one in enumerate(every):
        length = _SHORT
        for other in every[max(at - 1, 0) : at] + every[at + 1 : at + 2]:
            while one[:length] == other[:length]:
                length += 1
        short[one] = one[:length].rstrip("-")
    return short
