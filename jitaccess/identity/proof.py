"""Whether somebody has just proved who they are, which policies may ask for before an approval (step-up)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

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
# Of these each alone is a second factor.
_SECOND = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


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
    """Whether they may change how they sign in: proved again, by a second factor if they have one, as a password alone
    must not take that away; or, with nothing to prove it by, signed in just now.
    """
    if factors := factors_of(person):
        records = get_authentication_records(request, person)
        return any(one.get("reauthenticated") and _is_recent(one) and way_of(one) in factors for one in records)
    if recently_proved(request, person):
        return True
    return not ways_of(person) and any(map(_is_recent, get_authentication_records(request, person)))


def ways_of(person: User) -> tuple[str, ...]:
    """How they can prove who they are, the best first: of STEP_UP_WITH, else by the provider they sign in with."""
    held = {_TYPES[kind] for kind in _held(person) if kind in _TYPES}
    if settings.LOCAL_PASSWORDS and person.has_usable_password():
        held.add(PASSWORD)
    ways = tuple(way for way in (PASSKEY, CODE, PASSWORD) if way in held and way in settings.STEP_UP_WITH)
    if ways or not settings.OIDC_ISSUER:
        return ways
    linked = SocialAccount.objects.filter(user=person, provider=provider_id()).exists()
    return (PROVIDER,) if linked else ()


def factors_of(person: User) -> tuple[str, ...]:
    """The second factors that prove who they are, whatever counts for approvals; recovery codes stand in for one."""
    types = _held(person)
    held = {_TYPES[kind] for kind in types} if types & set(_SECOND) else set()
    return tuple(way for way in (PASSKEY, CODE) if way in held)


def has_second_factor(person: User) -> bool:
    """Whether a password alone does not sign them in."""
    return bool(Authenticator.objects.filter(user=person, type__in=_SECOND).exists())


def is_required(user: User) -> bool:
    """Whether this person has to have a second factor."""
    admin = user.is_staff or user.is_superuser
    return bool(settings.MFA_REQUIRED == "all" or (settings.MFA_REQUIRED == "admins" and admin))


def way_in_of(people: Iterable[User], *, but_password_of: UUID | None = None) -> set[UUID]:
    """Those who can sign in by themselves: without a link that somebody at the machine makes for them."""
    by_id = {person.pk: person for person in people}
    found = {pk for pk, person in by_id.items() if settings.LOCAL_PASSWORDS and person.has_usable_password()}
    found.discard(but_password_of)
    passkeys = Authenticator.objects.filter(user__in=by_id, type=Authenticator.Type.WEBAUTHN)
    found |= {row.user_id for row in passkeys if row.wrap().is_passwordless}
    if settings.OIDC_ISSUER:
        linked = SocialAccount.objects.filter(user__in=by_id, provider=provider_id())
        found |= set(linked.values_list("user", flat=True))
    return found


def without_required_factor(people: Iterable[User]) -> set[UUID]:
    """Those who have to set up a second factor before anything else. One query at most."""
    required = {person.pk for person in people if is_required(person)}
    if not required:
        return required
    return required - set(
        Authenticator.objects.filter(user__in=required, type__in=_SECOND).values_list("user", flat=True)
    )


def way_of(one: dict[str, Any]) -> str:
    """What an authentication record of allauth's is about; its own name for what is no way to prove anything."""
    if one["method"] == "mfa":
        return _TYPES.get(one.get("type", ""), "")
    return PROVIDER if one["method"] == "socialaccount" else str(one["method"])


def _held(person: User) -> set[str]:
    return set(Authenticator.objects.filter(user=person).values_list("type", flat=True))


def _is_recent(one: dict[str, Any]) -> bool:
    return 0 <= time.time() - float(one["at"]) < settings.STEP_UP_SECONDS
