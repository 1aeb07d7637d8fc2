"""Sign-in sessions in the database that end by the database's clock, as everything else does."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session

from jitaccess.store.clock import JitNow, now


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
