"""The page on which every component of the design system is to be seen in all its states, for whoever builds pages."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from jitaccess.web import specimens
from jitaccess.web.icons import ICONS
from jitaccess.web.tokens import DARK, LIGHT, PAIRS, contrast


@require_safe
def design(request: HttpRequest) -> HttpResponse:
    """Staff only, unless this is somebody's own machine (DEBUG)."""
    if not settings.DEBUG and not request.user.is_staff:
        raise Http404
    return render(request, "web/design.html", _context())


def _context() -> dict[str, object]:
    pairs = [
        (one, contrast(LIGHT[one.fore], LIGHT[one.back]), contrast(DARK[one.fore], DARK[one.back])) for one in PAIRS
    ]
    return {
        "now": specimens.NOW,
        "icons": list(ICONS),
        "tones": ("wait", "good", "bad", "off", "accent", "info", "warn"),
        "classes": ("low", "medium", "high", "critical", "read", "write", "destructive"),
        "colours": [(name, LIGHT[name], DARK[name]) for name in LIGHT],
        "pairs": pairs,
        "cards": specimens.cards(),
        "hostile": specimens.HOSTILE,
        "rtl": specimens.RTL,
        "long_name": specimens.LONG,
        "long_text": specimens.TEXT,
        **specimens.lists(),
    }
