"""How allauth signs people in here."""

from __future__ import annotations

from allauth.account.adapter import DefaultAccountAdapter
from django.db import transaction
from django.http import HttpRequest

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Accounts are made by an admin, never by whoever finds the page; sign-ins and new passwords are on record."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002 - allauth names it
        return False

    def login(self, request: HttpRequest, user: User) -> None:
        """Called by allauth for each of its ways to sign in; a sign-in link records itself when it is used up."""
        with transaction.atomic():
            actor = _actor(request, user)
            record(Facts(event=Event.USER_SIGNED_IN, actor=actor, outcome=Outcome.ALLOWED, data={"with": "allauth"}))
            super().login(request, user)

    def set_password(self, user: User, password: str) -> None:
        """Called by allauth when somebody changes their own; writes nothing else of a row that may be stale."""
        with transaction.atomic():
            user.set_password(password)
            user.save(update_fields=["password"])
            record(Facts(event=Event.USER_PASSWORD_CHANGED, actor=_actor(self.request, user)))


def _actor(request: HttpRequest, user: User) -> Actor:
    return Principal.of_user(user, source=str(request.META.get("REMOTE_ADDR", ""))).actor()
