"""Charts as SVG that the server draws, in the shape that templates/parts/chart.html reads; the numbers stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

_WIDTH, _HEIGHT = 1000, 100
_GAP = 0.2  # of a bar's place


@dataclass(frozen=True, slots=True)
class Series:
    """What is counted, with a number and the address of its rows for each place on the axis."""

    label: str
    values: Sequence[int]
    urls: Sequence[str]


def bars(
    *, name: str, title: str, about: str, axis: str, places: Sequence[str], series: Sequence[Series]
) -> dict[str, Any]:
    """Bars side by side at each of `places`, at most four series. All texts are escaped here or by the template."""
    top = ceiling(max((value for one in series for value in one.values), default=0))
    step = max(1, -(-len(places) // 6))
    return {
        "id": name,
        "title": title,
        "about": about,
        "top": number(top),
        "names": list(places[::step]),
        "svg": _svg(name, title, places, series, top),
        "legend": [(place, one.label) for place, one in enumerate(series, 1)] if len(series) > 1 else [],
        "head": [axis, *(one.label for one in series)],
        "rows": [
            (place, *({"text": number(one.values[at]), "url": one.urls[at]} for one in series))
            for at, place in enumerate(places)
        ],
    }


def number(value: int) -> str:
    """With a thin space between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def ceiling(value: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50, … that is not below."""
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale >= value:
                return digit * scale
        scale *= 10


def _svg(name: str, title: str, places: Sequence[str], series: Sequence[Series], top: int) -> SafeString:
    width = _WIDTH / max(len(places), 1)
    thick = width * (1 - _GAP) / max(len(series), 1)
    drawn = format_html_join(
        "",
        '<rect class="bar s{}" x="{}" y="{}" width="{}" height="{}"><title>{}: {} {}</title></rect>',
        (
            (
                kind, f"{at * width + width * _GAP / 2 + (kind - 1) * thick:.1f}",
                f"{_HEIGHT - _HEIGHT * one.values[at] / top:.2f}", f"{thick * 0.9:.1f}",
                f"{_HEIGHT * one.values[at] / top:.2f}", place, number(one.values[at]), one.label,
            )
            for at, place in enumerate(places)
            for kind, one in enumerate(series, 1)
            if one.values[at]
        ),
    )  # fmt: skip
    said = "; ".join(f"{one.label}: {number(sum(one.values))} in all" for one in series)
    return format_html(
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-labelledby="{}-svg">'
        '<title id="{}-svg">{}. {}</title><path class="grid-line" d="M0 0H{}M0 {}H{}"/>{}</svg>',
        _WIDTH, _HEIGHT, name, name, title, said, _WIDTH, _HEIGHT // 2, _WIDTH, drawn,
    )  # fmt: skip
