"""How allauth signs people in here."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.authentication import get_authentication_records
from allauth.account.utils import filter_users_by_username
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity import attempts, on_record
from jitaccess.identity.models import SignInLink, User
from jitaccess.identity.proof import CODE, LINK, PASSKEY, PASSWORD, PROVIDER, factors_of, way_of, ways_of
from jitaccess.store.clock import JitNow
from jitaccess.store.sealing import ring

# The member of a session that says by whom and with what a sign-in was begun.
BEGUN = "sign_in_begun"
# Of a shared secret for codes, and of the seed of recovery codes.
SEALED = "authenticator-v1"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Accounts are made by an admin, never by whoever finds the page; all that people do with them is on record."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002 - allauth names it
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """As everywhere here: who has believed a proxy has put its word there."""
        return str(request.META.get("REMOTE_ADDR", ""))

    def login(self, request: HttpRequest, user: User) -> None:
        """Called by allauth for each of its ways to sign in; a link that needs nothing else recorded its use itself."""
        ways = [way_of(one) for one in get_authentication_records(request, user)]
        with transaction.atomic():
            self._ensure_still_so(request, user)
            if ways != [LINK]:
                data = {"with": " and ".join(dict.fromkeys(ways)) or "allauth"}
                actor = on_record.actor_of(request, user)
                record(Facts(event=Event.USER_SIGNED_IN, actor=actor, outcome=Outcome.ALLOWED, data=data))
            super().login(request, user)
            attempts.mark(request)

    def pre_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse | None:
        """The first step: what it was begun with is remembered for the last one.

        Under another key already: whoever planted the session in this browser must not stand at the second step.
        """
        if request.session.session_key:
            request.session.cycle_key()
        request.session[BEGUN] = [str(user.pk), user.get_session_auth_hash()]
        response: HttpResponse | None = super().pre_login(request, user, **options)
        return response

    def post_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **options)
        attempts.remember(response, user)
        return response

    def _ensure_still_so(self, request: HttpRequest, user: User) -> None:
        """Between the steps of a sign-in the password may have changed, all sessions been ended, the person gone.

        A session that does not say with what it was begun is refused as well.
        """
        now = User.objects.select_for_update().get(pk=user.pk)
        begun = request.session.pop(BEGUN, None)
        if begun != [str(now.pk), now.get_session_auth_hash()] or not now.is_active:
            request.session.flush()
            raise ImmediateHttpResponse(redirect("account_login"))

    def logout(self, request: HttpRequest) -> None:
        with transaction.atomic():
            if isinstance(request.user, User):
                record(Facts(event=Event.USER_SIGNED_OUT, actor=on_record.actor_of(request, request.user)))
            UserSession.objects.filter(session_key=request.session.session_key).delete()
            super().logout(request)

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Raises for who guessed too often; and where nobody has a password here, whatever it is.

        By account and not by name: databases know more spellings of a name than lower case does.
        """
        if not settings.LOCAL_PASSWORDS:
            raise self.validation_error("username_password_mismatch")
        name = str(credentials.get("username", ""))
        whose = filter_users_by_username(name).first() if name else None
        self._login_failed_rl_usage = attempts.begin(request, whose, kind=PASSWORD, name=name)

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        on_record.failed(request, str(credentials.get("username", "")), by=PASSWORD)

    def set_password(self, user: User, password: str) -> None:
        """Called by allauth when somebody changes their own; writes nothing else of a row that may be stale."""
        with transaction.atomic():
            user.set_password(password)
            user.save(update_fields=["password"])
            # Whoever changes it because of a leak means every way in that was given out before.
            SignInLink.objects.filter(user=user, used_at=None, expires_at__gt=JitNow()).update(expires_at=JitNow())
            record(Facts(event=Event.USER_PASSWORD_CHANGED, actor=on_record.actor_of(self.request, user)))

    def is_reauthentication_required(self, *, app: str) -> bool:  # noqa: ARG002 - allauth names it
        """Never by allauth: it would keep a form and send it itself afterwards, and is content with people who have
        nothing to prove themselves by. Our pages ask `known_again`.
        """
        return False

    def get_reauthentication_methods(self, user: User | AnonymousUser) -> list[dict[str, Any]]:
        """The ways to prove who one is, the first of them where one is sent; in the form allauth wants."""
        if not isinstance(user, User):
            return []
        return [_METHODS[way]() for way in dict.fromkeys((*ways_of(user), *factors_of(user)))]


_METHODS = {
    PASSKEY: lambda: _method("mfa_reauthenticate_webauthn", "Use a passkey"),
    CODE: lambda: _method("mfa_reauthenticate", "Use a code of your authenticator app, or a recovery code"),
    PASSWORD: lambda: _method("account_reauthenticate", "Use your password"),
    PROVIDER: lambda: _method("oidc_reauthenticate", f"Use {settings.OIDC_NAME}"),
}


def page_of(way: str) -> str:
    """Where one proves oneself in this way."""
    return _METHODS[way]()["url"]


def _method(name: str, description: str) -> dict[str, str]:
    return {"id": name, "url": reverse(name), "description": description}


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]  # allauth ships no types
    """Secrets are sealed, and passkeys are for the address by which people know this installation."""

    def encrypt(self, text: str) -> str:
        return ring().seal(text.encode(), context=SEALED)

    def decrypt(self, encrypted_text: str) -> str:
        return ring().open(encrypted_text, context=SEALED).decode()

    def get_totp_issuer(self) -> str:
        return f"jitaccess {self._get_site_name()}"

    def build_totp_svg(self, url: str) -> str:
        """On white, in whatever colours the page is: phones read nothing else."""
        from qrcode import make  # type: ignore[import-untyped]
        from qrcode.image.svg import SvgPathFillImage  # type: ignore[import-untyped]

        return str(make(url, image_factory=SvgPathFillImage).to_string(encoding="unicode"))

    def _get_user_identifier(self, user: User) -> str:
        return user.username

    def _get_site_name(self) -> str:
        # Not from the request: its Host header is whoever's.
        return urlsplit(settings.PUBLIC_URL).hostname or "jitaccess"

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        host = self._get_site_name()
        return {"id": host, "name": f"jitaccess {host}"}

    def generate_authenticator_name(self, user: User, type: Authenticator.Type) -> str:  # noqa: A002 - allauth names it
        """Where nobody gave a name."""
        return f"Passkey {Authenticator.objects.filter(user=user, type=type).count() + 1}"


def passkeys_work() -> bool:
    """Whether browsers make passkeys for our address: over TLS, or for the name localhost (WebAuthn level 3, 5.1.3).

    Not for addresses in digits, such as 127.0.0.1: those are no domains.
    """
    public = urlsplit(settings.PUBLIC_URL)
    return public.scheme == "https" or public.hostname == "localhost"


def operator_of(request: HttpRequest) -> Actor:
    """Who is signed in, for the record."""
    assert isinstance(request.user, User)
    return on_record.actor_of(request, request.user)
