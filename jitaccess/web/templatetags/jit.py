"""Times and durations as people read them, and hostile text made inert."""

from __future__ import annotations

from datetime import UTC, datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.text import visible
from jitaccess.web.icons import ICONS
from jitaccess.web.tokens import DARK, LIGHT
from requests_app.card.adds import Adds
from requests_app.card.card import Card
from requests_app.card.usage import Used

register = template.Library()


@register.filter
def when(moment: datetime | None, now: datetime) -> str:
    """Such as "in 24 min" or "5 min ago", the exact UTC time in the title."""
    return _time(moment, relative(moment, now)) if moment else ""


@register.filter
def left(moment: datetime | None, now: datetime) -> str:
    """Such as "24 min", until `moment`."""
    return _time(moment, _rough((moment - now).total_seconds())) if moment else ""


@register.filter
def clock(moment: datetime | None) -> str:
    """Such as "14:02 UTC", the exact time in the title."""
    return _time(moment, f"{moment.astimezone(UTC):%H:%M} UTC") if moment else ""


@register.filter
def duration(seconds: int) -> str:
    return format_duration(seconds)


@register.filter
def inert(text: str, limit: int = 2000) -> str:
    """One line of text from a model, a user or a server, with everything that cannot be seen escaped."""
    return visible(str(text), limit=limit)


@register.filter
def inert_lines(text: str, limit: int = 2000) -> str:
    """As `inert`, with newlines kept."""
    return visible(str(text), limit=limit, multiline=True)


@register.filter
def adds_of(adds: Adds | None, label: str) -> Adds | None:
    """What of `adds` one thing of the request has to do with; None where nothing is known of it."""
    return adds.of(label) if adds else None


@register.filter
def used_of(card: Card, label: str) -> Used | None:
    """How often one thing of the request was used before; None where that is not known."""
    return next((one for one in card.unusual.used if one.label == label), None)


@register.simple_tag
def icon(name: str) -> SafeString:
    """An icon of jitaccess.web.icons beside words that say the same; nothing for a name that is not there."""
    if name not in ICONS:
        return SafeString()
    return format_html(
        '<svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true"><path d="{}"/></svg>',
        ICONS[name],
    )


@register.simple_tag
def colour(name: str, *, dark: bool = False) -> str:
    """The value of a colour of the design system, such as #0a5a56: for e-mail, which has no style sheet of ours."""
    return (DARK if dark else LIGHT)[name]


def relative(moment: datetime, now: datetime) -> str:
    seconds = (moment - now).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    return f"in {_rough(seconds)}" if seconds > 0 else f"{_rough(-seconds)} ago"


def _rough(seconds: float) -> str:
    """The largest unit that says enough; hours with minutes, because half an hour matters to a grant."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 6 * 3600:
        return format_duration(whole // 60 * 60)
    return f"{whole // 3600} h" if whole < 48 * 3600 else f"{whole // 86_400} d"


def _time(moment: datetime, text: str) -> SafeString:
    utc = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M:%S} UTC", text
    )
