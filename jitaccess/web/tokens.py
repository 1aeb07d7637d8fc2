"""The colours of the design system as values, for what has no style sheet; and the contrast that they promise.

They are read from static/jitaccess/tokens.css, so that they are written down once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SHEET = Path(__file__).parent / "static" / "jitaccess" / "tokens.css"
_COLOUR = re.compile(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
_FOUND = _COLOUR.findall(_SHEET.read_text(encoding="utf-8"))
LIGHT: dict[str, str] = {name: light for name, light, _ in _FOUND}
DARK: dict[str, str] = {name: dark for name, _, dark in _FOUND}

# WCAG 2.2: text 1.4.3 (AA); what shows where a control is or has the focus, and marks in charts 1.4.11.
TEXT, MARK = 4.5, 3.0
GROUNDS = ("ground", "rail", "surface", "sunken", "hover")
TONES = ("good", "info", "warn", "bad", "off")


@dataclass(frozen=True, slots=True)
class Pair:
    """`fore` is drawn on `back`, with a contrast of at least `least` to one."""

    fore: str
    back: str
    least: float


PAIRS: tuple[Pair, ...] = (
    *(Pair(fore, back, TEXT) for fore in ("ink", "muted", "accent", "accent-strong") for back in GROUNDS),
    *(Pair(tone, f"{tone}-soft", TEXT) for tone in TONES),
    *(Pair("ink", f"{tone}-soft", TEXT) for tone in ("accent", *TONES)),
    *(Pair("muted", f"{tone}-soft", TEXT) for tone in ("accent", *TONES)),
    *(Pair(tone, back, TEXT) for tone in TONES for back in ("surface", "sunken", "ground", "hover")),
    Pair("accent", "accent-soft", TEXT),
    Pair("accent-strong", "accent-soft", TEXT),
    *(Pair("on-fill", back, TEXT) for back in ("fill", "fill-strong", "fill-bad")),
    *(Pair("fill", back, MARK) for back in ("surface", "sunken")),
    *(Pair("edge", back, MARK) for back in GROUNDS),
    *(Pair("accent", back, MARK) for back in (*GROUNDS, "accent-soft", "bad-soft", "warn-soft")),
    *(Pair(f"series-{number}", "surface", MARK) for number in range(1, 5)),
)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours such as #0a5a56, from 1 to 21 (WCAG 2.2, "contrast ratio")."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
