"""Sign-in sessions in the database that end by the database's clock, as everything else does."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.utils.crypto import constant_time_compare

from jitaccess.identity.models import User
from jitaccess.store.clock import JitNow, now

_COOKIE = re.compile(r"[a-z0-9]{8,40}")


class SessionStore(db.SessionStore):
    """Django's, with another clock."""

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        return super().get_expiry_date(**{"modification": now(), **kwargs})

    def _get_session_from_db(self) -> Session | None:
        found = Session.objects.filter(session_key=self.session_key, expire_date__gt=JitNow()).first()
        if found is None:
            self._session_key = None
        return found

    @classmethod
    def clear_expired(cls) -> None:
        Session.objects.filter(expire_date__lte=JitNow()).delete()


def person_of_cookie(cookie: str) -> User | None:
    """Who is signed in with this session cookie, as `people_of_cookies`."""
    return people_of_cookies([cookie]).get(cookie)


def people_of_cookies(cookies: Collection[str]) -> dict[str, User]:
    """The active person of each session that has not ended; two queries.

    Decided as django.contrib.auth.get_user does, which may also give a session another key or end it: whoever cannot
    hand the browser its new cookie must only read.
    """
    # Cookies may hold what PostgreSQL refuses in a text, as NUL.
    keys = {cookie for cookie in cookies if _COOKIE.fullmatch(cookie)}
    rows = Session.objects.filter(session_key__in=keys, expire_date__gt=JitNow())
    store = SessionStore()
    said = {row.session_key: store.decode(row.session_data) for row in rows}
    ids = {one[SESSION_KEY] for one in said.values() if SESSION_KEY in one}
    users = {str(user.pk): user for user in User.objects.filter(pk__in=ids, is_active=True)}
    found = ((key, one, users.get(one.get(SESSION_KEY, ""))) for key, one in said.items())
    return {key: user for key, one, user in found if user is not None and _is_theirs(one, user)}


def _is_theirs(said: dict[str, Any], user: User) -> bool:
    """Whether the session was begun with the password that they have now, and in a way that there still is."""
    proof = str(said.get(HASH_SESSION_KEY, ""))
    hashes = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    same = any(constant_time_compare(proof, one) for one in hashes)
    return same and said.get(BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS
