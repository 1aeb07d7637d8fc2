"""How far long work is: one line on stderr that is written again and again, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

_EVERY = 0.2  # seconds
_LOOK = 256  # rows between two looks at the clock
Row = TypeVar("Row")


def watched(rows: Iterable[Row], what: str, total: int | None = None, *, out: TextIO | None = None) -> Iterator[Row]:
    """`rows` themselves; meanwhile "12,000 of 50,000 entries checked", and nothing is left of it at the end."""
    out = out or sys.stderr
    if not out.isatty():
        yield from rows
        return
    told, of = 0.0, f" of {total:,}" if total else ""
    try:
        for count, row in enumerate(rows, start=1):
            if count % _LOOK == 0 and time.monotonic() - told >= _EVERY:
                told = time.monotonic()
                out.write(f"\r\x1b[K{count:,}{of} {what}")
                out.flush()
            yield row
    finally:
        if told:
            out.write("\r\x1b[K")
            out.flush()
