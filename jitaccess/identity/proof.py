"""Whether somebody has just proved who they are, which policies may ask for before an approval (step-up)."""

from __future__ import annotations

import time
from typing import Any

from allauth.account.authentication import get_authentication_records

# Private there, and the one thing that we take from what is: its session keys would be no better.
from allauth.account.internal.flows.login import record_authentication
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.http import HttpRequest

from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import User

PASSWORD, CODE, PASSKEY, PROVIDER, LINK = "password", "totp", "webauthn", "oidc", "sign_in_link"
_TYPES = {
    Authenticator.Type.TOTP: CODE,
    Authenticator.Type.RECOVERY_CODES: CODE,
    Authenticator.Type.WEBAUTHN: PASSKEY,
}


def recently_proved(request: HttpRequest, person: User) -> bool:
    """Whether this person proved who they are again, in this session, by a way that counts, not longer ago than
    STEP_UP_SECONDS.

    Not allauth's own answer, which is yes for whoever has nothing to prove it with.
    """
    records = get_authentication_records(request, person)
    again = [one for one in records if one.get("reauthenticated") and _is_recent(one)]
    ways = {way_of(one) for one in again}
    if ways & set(settings.STEP_UP_WITH):
        return True
    # The provider's word counts only for those who have nothing better. Not asked when nobody gave it.
    return PROVIDER in ways and PROVIDER in ways_of(person)


def note_step(request: HttpRequest, person: User, method: str, **said: Any) -> None:
    """That this person has taken a step to sign in, or (reauthenticated=True) proved again who they are."""
    record_authentication(request, person, method, **said)


def known_again(request: HttpRequest, person: User) -> bool:
    """Whether they may change how they sign in: proved again; or, with nothing to prove it by, signed in just now."""
    if recently_proved(request, person):
        return True
    return not ways_of(person) and any(map(_is_recent, get_authentication_records(request, person)))


def ways_of(person: User) -> tuple[str, ...]:
    """How they can prove who they are, the best first: of STEP_UP_WITH, else by the provider they sign in with."""
    types = Authenticator.objects.filter(user=person).values_list("type", flat=True)
    held = {_TYPES[kind] for kind in types if kind in _TYPES}
    if settings.LOCAL_PASSWORDS and person.has_usable_password():
        held.add(PASSWORD)
    ways = tuple(way for way in (PASSKEY, CODE, PASSWORD) if way in held and way in settings.STEP_UP_WITH)
    if ways or not settings.OIDC_ISSUER:
        return ways
    linked = SocialAccount.objects.filter(user=person, provider=provider_id()).exists()
    return (PROVIDER,) if linked else ()


def has_second_factor(person: User) -> bool:
    """Whether a password alone does not sign them in."""
    kinds = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
    return bool(Authenticator.objects.filter(user=person, type__in=kinds).exists())


def is_required(user: User) -> bool:
    """Whether this person has to have a second factor."""
    admin = user.is_staff or user.is_superuser
    return bool(settings.MFA_REQUIRED == "all" or (settings.MFA_REQUIRED == "admins" and admin))


def way_of(one: dict[str, Any]) -> str:
    """What an authentication record of allauth's is about; its own name for what is no way to prove anything."""
    if one["method"] == "mfa":
        return _TYPES.get(one.get("type", ""), "")
    return PROVIDER if one["method"] == "socialaccount" else str(one["method"])


def _is_recent(one: dict[str, Any]) -> bool:
    return 0 <= time.time() - float(one["at"]) < settings.STEP_UP_SECONDS
