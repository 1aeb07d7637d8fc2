"""Who calls: a person with the session of their browser, or an agent with a bearer token. Never both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from django.conf import settings
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import authenticate
from jitaccess.kernel.errors import Forbidden, Invalid


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified principal, and the person when it is one. Stands where the framework expects a user."""

    principal: Principal
    person: User | None = None

    is_authenticated: ClassVar[bool] = True

    def decider(self) -> User:
        """The person. Raises Forbidden for agents, whatever the user they act for may do."""
        if self.person is None:
            raise Forbidden("agents_never_decide", "Agents ask; people decide. No token of an agent can do this.")
        return self.person

    def may(self, permission: str) -> bool:
        """Whether this is a person who could do so in the admin."""
        person = self.person
        return person is not None and person.is_active and person.is_staff and person.has_perm(permission)

    def insist(self, permission: str) -> None:
        """Raises Forbidden unless `may`."""
        if not self.may(permission):
            raise Forbidden("not_permitted", f"This needs the permission {permission}, held by a member of staff.")

    def insist_on_reading(self, kind: str) -> None:
        """Raises Forbidden unless the admin would show rows of `kind`, such as "jit_catalog.server"."""
        app, _, model = kind.partition(".")
        if not self.may(f"{app}.change_{model}"):
            self.insist(f"{app}.view_{model}")


class Authentication(SessionAuthentication):
    """Sessions with CSRF protection for people, bearer tokens for agents."""

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        header = request.headers.get("Authorization")
        source = str(request.META.get("REMOTE_ADDR", ""))
        if header is None:
            found = super().authenticate(request)
            if found is None:
                return None
            person = found[0]
            assert isinstance(person, User)
            return Caller(Principal.of_user(person, source=source, client="api"), person), None
        if settings.SESSION_COOKIE_NAME in request.COOKIES:
            # Which of the two would be on record must not be for the caller to guess.
            raise Invalid("auth.both", "Send a session cookie or a bearer token, not both.")
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "bearer":
            raise AuthenticationFailed("Use the scheme Bearer.", code="auth.scheme")
        try:
            return Caller(authenticate(value.strip(), source=source, client="api")), None
        except Forbidden as error:
            raise AuthenticationFailed(error.detail, code=error.code) from error

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - the framework passes it
        return 'Bearer realm="jitaccess"'
