"""Whether somebody has just proved who they are, which policies may ask for before an approval (step-up)."""

from __future__ import annotations

import time

from allauth.account import app_settings
from allauth.account.authentication import get_authentication_records
from django.http import HttpRequest

from jitaccess.identity.models import User


def recently_proved(request: HttpRequest, person: User) -> bool:
    """Whether this person gave their password again, in this session, not longer ago than allauth's timeout.

    Not allauth's own answer, which is yes for whoever has no password to give.
    """
    records = get_authentication_records(request, person)
    at = [one["at"] for one in records if one.get("reauthenticated")]
    return bool(at) and 0 <= time.time() - at[-1] < app_settings.REAUTHENTICATION_TIMEOUT
