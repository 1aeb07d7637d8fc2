"""What people do with their sign-in, in the ledger. Receivers of signals write in the transaction of what they tell."""

from __future__ import annotations

from typing import Any

from allauth.account.signals import (
    authentication_step_completed,
    password_changed,
    password_set,
    user_logged_in,
)
from allauth.core import context
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authentication_failed
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions import signals as of_sessions
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_save
from django.http import HttpRequest

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.identity.proof import way_of
from jitaccess.kernel.text import visible


def connect() -> None:
    """Once, when the apps are ready."""
    # Those would keep browsers by the clock of this machine, and look through all of them at each sign-in.
    user_logged_in.disconnect(of_sessions.on_user_logged_in)
    for signal in (password_set, password_changed):
        signal.disconnect(of_sessions.on_password_changed)
    authentication_step_completed.connect(_proved)
    authentication_failed.connect(_code_refused)
    post_save.connect(_authenticator_saved, sender=Authenticator)
    post_delete.connect(_authenticator_deleted, sender=Authenticator)
    post_save.connect(_identity_saved, sender=SocialAccount)
    post_delete.connect(_identity_deleted, sender=SocialAccount)
    pre_save.connect(_person_to_be_saved, sender=User)
    post_save.connect(_person_saved, sender=User)


def actor_of(request: HttpRequest, user: User) -> Actor:
    """A person, through the page they use."""
    return Principal.of_user(user, source=str(request.META.get("REMOTE_ADDR", ""))).actor()


def failed(request: HttpRequest, username: str, *, by: str) -> None:
    """A sign-in that failed. As many as `attempts` lets anybody try, and allauth with a passkey alone.

    What was typed is told only where somebody has that name: it may be a password that went into the wrong field.
    """
    known = User.objects.filter(username=username).first() if username else None
    source = str(request.META.get("REMOTE_ADDR", ""))
    actor = Actor(user_name="system:sign-in", client="web", source=source)
    data = {"with": by, "for_user": known.username if known else ""}
    with transaction.atomic():
        record(Facts(event=Event.USER_SIGN_IN_FAILED, actor=actor, outcome=Outcome.DENIED, data=data))


def _proved(request: HttpRequest, user: User, method: str, **said: Any) -> None:
    if said.get("reauthenticated"):
        with transaction.atomic():
            facts = {"with": way_of({"method": method, **said})}
            record(Facts(event=Event.USER_PROVED, actor=actor_of(request, user), outcome=Outcome.ALLOWED, data=facts))


def _code_refused(request: HttpRequest, user: User, authenticator: Authenticator, **_: Any) -> None:
    failed(request, user.username, by=str(authenticator.type))


def _authenticator_saved(instance: Authenticator, created: bool, **_: Any) -> None:
    if created:
        _of(instance.user, Event.AUTHENTICATOR_ADDED, _said_of(instance))


def _authenticator_deleted(instance: Authenticator, **_: Any) -> None:
    _of(instance.user, Event.AUTHENTICATOR_REMOVED, _said_of(instance))


def _identity_saved(instance: SocialAccount, created: bool, **_: Any) -> None:
    if created:
        new = "yes" if getattr(instance.user, "made_by_provider", False) else "no"
        _of(instance.user, Event.IDENTITY_LINKED, {"subject": visible(instance.uid, limit=200), "new_account": new})


def _identity_deleted(instance: SocialAccount, **_: Any) -> None:
    _of(instance.user, Event.IDENTITY_UNLINKED, {"subject": visible(instance.uid, limit=200)})


def _of(user: User, event: Event, data: dict[str, str]) -> None:
    with transaction.atomic():
        record(Facts(event=event, actor=_whoever(), data={"for_user": user.username, **data}))


def _whoever() -> Actor:
    """Who asks for the page of this thread; a part of ours where it is no page, or nobody is signed in yet."""
    request = context.request
    user = getattr(request, "user", None)
    return actor_of(request, user) if isinstance(user, User) else Actor.system("accounts")


def _said_of(authenticator: Authenticator) -> dict[str, str]:
    name = authenticator.data.get("name", "") if isinstance(authenticator.data, dict) else ""
    return {"kind": str(authenticator.type), "name": visible(str(name), limit=80)}


def _person_to_be_saved(instance: User, **_: Any) -> None:
    instance.goes_off = not instance.is_active and User.objects.filter(pk=instance.pk, is_active=True).exists()  # type: ignore[attr-defined]


def _person_saved(instance: User, **_: Any) -> None:
    """Whoever is deactivated is signed out: else the old sessions would be good again with the account."""
    from jitaccess.identity.signed_in import end_sessions

    if getattr(instance, "goes_off", False):
        end_sessions(user=instance, actor=_whoever(), why="deactivated")
