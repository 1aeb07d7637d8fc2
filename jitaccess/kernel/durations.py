"""Durations as people write and read them: "90s", "4h", "1h30m" in, "1 h 30 min" out."""

from __future__ import annotations

import re

from .errors import Invalid

_DURATION = re.compile(
    r"(?=.)(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?"  # lookahead: not empty
)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def parse_duration(text: str) -> int:
    """Return the seconds of "90s", "30m", "4h", "2d" or a descending mix such as "1h30m".

    Raises Invalid("duration.invalid"). A number without a unit is refused because files disagree on
    whether it means minutes or seconds; a YAML file may hand one over as an int, which is refused too.
    """
    text = str(text)
    match = _DURATION.fullmatch(text)
    if match:
        return sum(int(count or 0) * size for count, (size, _) in zip(match.groups(), _UNITS, strict=True))
    shown = ascii(text[:40])
    if re.fullmatch(r"[+-]?[0-9]+", text):
        raise Invalid("duration.invalid", f"The duration {shown} has no unit: write 90s, 30m, 4h or 2d.")
    raise Invalid("duration.invalid", f"The duration {shown} is not clear: write 90s, 30m, 4h, 2d or 1h30m.")


def format_duration(seconds: int) -> str:
    """Return `seconds` for people: "45 s", "1 h 30 min", "2 d"; a time already past starts with "-"."""
    parts = []
    rest = abs(seconds)
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return ("-" if seconds < 0 else "") + (" ".join(parts) or "0 s")
