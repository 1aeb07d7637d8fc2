"""Where somebody is signed in: a row for each browser, and what ends one of them or all."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from allauth.usersessions.models import UserSession
from django.contrib.auth import update_session_auth_hash
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import DatabaseError, transaction
from django.db.models import F, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.devices import device_of
from jitaccess.identity.models import SignInLink, User
from jitaccess.identity.sessions import people_of_cookies
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow

log = logging.getLogger("jitaccess.sessions")
# "Last seen" may be so old, in seconds: to write at each request would take SQLite's one writer for reading.
_FRESH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """One browser. `device` is what it says of itself."""

    id: int
    device: str
    address: str
    since: datetime
    seen: datetime
    here: bool


class LastSeen:
    """Middleware: notes a signed-in browser, once a minute at most. What a page fetches by itself is nobody at work."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        user = _served(request)
        by_itself = request.method == "GET" and "HX-Request" in request.headers
        if user and request.session.session_key and not by_itself:
            _note(request, user, request.session.session_key)
        return response


def _served(request: HttpRequest) -> User | None:
    """Who was asked for, or has just signed in. Not `request.user` itself: to look would read the session."""
    said: object = request.__dict__.get("user")
    if type(said) is SimpleLazyObject:
        said = getattr(request, "_cached_user", None)
    return said if isinstance(said, User) else None


def _note(request: HttpRequest, user: User, key: str) -> None:
    if not cache.add(f"seen:{hashlib.sha256(key.encode()).hexdigest()}", 1, _FRESH):
        return
    moment, address = JitNow(), request.META.get("REMOTE_ADDR", "")
    told = {
        "user": user,
        "ip": address if _is_address(address) else "::",
        "user_agent": visible(request.headers.get("User-Agent", ""), limit=200),
        "last_seen_at": moment,
    }
    try:
        if not UserSession.objects.filter(session_key=key).update(**told):
            UserSession.objects.create(session_key=key, created_at=moment, **told)
    except DatabaseError as error:  # the page is there all the same
        log.warning("that a browser was seen could not be noted: %s", error)


def sessions_of(user: User, *, here: str = "") -> list[SignedIn]:
    """Where this person is signed in now, the latest seen first; `here` is the session key of who asks."""
    rows = list(UserSession.objects.filter(user=user).order_by("-last_seen_at"))
    live = people_of_cookies([row.session_key for row in rows])
    return [
        SignedIn(
            id=row.pk, device=device_of(row.user_agent), address="" if row.ip == "::" else str(row.ip),
            since=row.created_at, seen=row.last_seen_at, here=row.session_key == here,
        )
        for row in rows if live.get(row.session_key) == user
    ]  # fmt: skip


def end_session(*, user: User, session: int, actor: Actor) -> None:
    """Sign one browser of this person out. Raises NotFound, also for another person's."""
    with transaction.atomic():
        row = UserSession.objects.select_for_update().filter(user=user, pk=session).first()
        if row is None:
            raise NotFound("session.unknown", "This browser is signed out already.")
        Session.objects.filter(session_key=row.session_key).delete()
        row.delete()
        data = {"for_user": user.username, "device": device_of(row.user_agent), "address": str(row.ip)}
        record(Facts(event=Event.SESSION_ENDED, actor=actor, data=data))


def end_sessions(*, user: User, actor: Actor, why: str, keep: HttpRequest | None = None) -> None:
    """Sign this person out everywhere, at once: also where no row tells of it. `keep` stays: the browser that asks.

    What could sign them in without asking again goes too: links that are not used yet.
    """
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(sessions_ended=Coalesce(F("sessions_ended"), Value(0)) + 1)
        user.refresh_from_db(fields=["sessions_ended"])
        rows = UserSession.objects.filter(user=user)
        keys = list(rows.values_list("session_key", flat=True))
        if keep is None:
            Session.objects.filter(session_key__in=keys).delete()
        else:
            mine = keep.session.session_key
            Session.objects.filter(session_key__in=[key for key in keys if key != mine]).delete()
            update_session_auth_hash(keep, user)
        rows.delete()
        SignInLink.objects.filter(user=user, used_at=None, expires_at__gt=JitNow()).update(expires_at=JitNow())
        data: JsonObject = {"for_user": user.username, "why": why, "but_here": keep is not None}
        record(Facts(event=Event.SESSIONS_ENDED, actor=actor, data=data))


def forget_ended() -> None:
    """Delete the rows of sessions that are no more."""
    UserSession.objects.exclude(session_key__in=Session.objects.values("session_key")).delete()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
