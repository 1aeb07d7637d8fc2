"""How often anybody may guess: counted apart for strangers, for browsers that are known, and for sessions.

One counter for each account would let whoever knows a name keep its owner out. So only strangers share one; a browser
that this person has signed in with before has its own (OWASP, "Slow down online guessing attacks with device cookies"),
and so has each session for proofs. Counted in each process.
"""

from __future__ import annotations

import secrets
from typing import Any

from allauth.account.adapter import get_adapter

# Private there. The public one knows no limits but allauth's own, which count as told above.
from allauth.core.internal.ratelimit import RateLimitUsage, consume
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponseBase
from django.utils.crypto import constant_time_compare, salted_hmac

from jitaccess.identity.models import User

# The cookie of a browser that is known. It lets nobody in: it says whose tries are counted apart.
COOKIE = "known_browser"
# The member of a session that names its counter. Not its key, which whoever has the session can change at will.
MARK = "attempts"
_SALT = "jitaccess.known_browser"
_DAYS = 90
# `tried` is for what checking a password costs us; what succeeded counts there, too.
_OWN = {"tried": "30/m/key", "failed": "5/300s/key"}
_STRANGERS = {"tried": "30/m/ip", "failed": "10/m/ip,5/300s/key"}


def begin(request: HttpRequest, user: User | None, *, kind: str, name: str = "") -> RateLimitUsage:
    """Count a try to be `user`, or somebody of that `name` whom there is not. Raises ValidationError: too many.

    Whoever is right takes it back (`rollback`); that clears nothing of what others failed.
    """
    place = _place_of(request, user)
    limits = _OWN if place else _STRANGERS
    key = f"{kind} {user.pk if user else name.lower()} {place}"
    tried = consume(request, app="jitaccess", action="tried", config=limits, key=key)
    usage = consume(request, app="jitaccess", action="failed", config=limits, key=key) if tried else None
    if usage is None:
        raise get_adapter(request).validation_error("too_many_login_attempts")
    return usage


def mark(request: HttpRequest) -> None:
    """Give the session of somebody who has just signed in a counter of its own."""
    request.session[MARK] = secrets.token_hex(16)


def remember(response: HttpResponseBase, user: User, *, number: str = "") -> None:
    """That this person signed in with this browser. With the `number` that it had: whoever is only signed in must not
    get one fresh counter after another.
    """
    response.set_cookie(
        COOKIE,
        signing.dumps([str(user.pk), number or secrets.token_hex(16), _bound(user)], salt=_SALT),
        max_age=_DAYS * 24 * 3600,
        path="/accounts/",
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _place_of(request: HttpRequest, user: User | None) -> str:
    """Where their tries are counted apart, "" for strangers."""
    if user is None:
        return ""
    here: Any = getattr(request, "user", None)  # commands have none
    if isinstance(here, User) and here.pk == user.pk:
        return f"session {request.session.get(MARK, '')}"
    number = known(request, user)
    return f"browser {number}" if number else ""


def known(request: HttpRequest, user: User) -> str:
    """The number of a browser that this person has signed in with, "" for others."""
    try:
        who, number, bound = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT, max_age=_DAYS * 24 * 3600)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return str(number) if who == str(user.pk) and constant_time_compare(bound, _bound(user)) else ""


def _bound(user: User) -> str:
    """Another one with another password and after signing out everywhere: who had a way in then is a stranger now."""
    return salted_hmac(_SALT, user.get_session_auth_hash(), algorithm="sha256").hexdigest()[:32]
