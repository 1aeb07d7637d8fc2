"""Who somebody at the OpenID Connect provider is here: by issuer and subject, never by an address or a name."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, NoReturn

from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.socialaccount.providers.base.constants import AuthError, AuthProcess
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.http import HttpRequest
from django.shortcuts import redirect, render

from jitaccess.egress.addresses import Allowance
from jitaccess.identity import on_record
from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import User
from jitaccess.identity.proof import note_step
from jitaccess.kernel.text import visible

_SKEW = 30  # seconds by which the provider's clock may differ
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """One provider, by configuration. Its accounts are linked by their owners, or made where OIDC_CREATE says so."""

    def get_requests_session(self) -> Any:
        from jitaccess.egress.for_requests import session

        return session(lambda: Allowance.parse(settings.EGRESS_ALLOW))

    def list_apps(self, request: HttpRequest, provider: str | None = None, client_id: str | None = None) -> list[Any]:  # noqa: ARG002
        from jitaccess.identity.oidc import app

        return [app()] if settings.OIDC_ISSUER else []

    def get_provider(self, request: HttpRequest, provider: str, client_id: str | None = None) -> Any:  # noqa: ARG002
        from jitaccess.identity.oidc import Provider, app

        if not settings.OIDC_ISSUER or provider not in {provider_id(), "openid_connect"}:
            raise SocialApp.DoesNotExist
        return Provider(request, app=app())

    def on_authentication_error(self, request: HttpRequest, provider: Any, error: str = "", **_: Any) -> None:  # noqa: ARG002
        """What went wrong is in no page and no log of ours with its details: the provider's answer may be anybody's."""
        if error == AuthError.CANCELLED:
            raise ImmediateHttpResponse(redirect("account_login"))
        on_record.failed(request, "", by="oidc")

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """After the account was looked up by issuer and subject; decides by what was begun."""
        process = sociallogin.state.get("process")
        if process == AuthProcess.REDIRECT:
            _proved(request, sociallogin)
        elif process == AuthProcess.CONNECT:
            raise ImmediateHttpResponse(_linked(request, sociallogin.account))
        elif sociallogin.account.pk is None:
            if not settings.OIDC_CREATE:
                _refuse(request, "Nobody here has this account yet. Sign in another way and link it, or ask an admin.")
            _create(request, sociallogin)
        elif not sociallogin.user.is_active:
            on_record.failed(request, sociallogin.user.username, by="oidc")


def _proved(request: HttpRequest, sociallogin: Any) -> None:
    """Somebody who is signed in was asked for again by the provider: that it did so is in `auth_time` (Core 1.0, 2)."""
    mine = sociallogin.account.user_id == request.user.pk
    at, asked = sociallogin.claims.get("auth_time"), (sociallogin.state.get("data") or {}).get("asked", time.time())
    if not isinstance(request.user, User) or not mine or sociallogin.account.pk is None:
        _refuse(request, "That is another account than the one you are signed in with here.")
    if not isinstance(at, int | float) or isinstance(at, bool) or not asked - _SKEW <= at <= time.time() + _SKEW:
        _refuse(request, f"{settings.OIDC_NAME} did not ask you again, so nothing is proved.")
    with transaction.atomic():
        note_step(request, request.user, "socialaccount", provider=provider_id(), reauthenticated=True)


def _linked(request: HttpRequest, account: SocialAccount) -> Any:
    if not isinstance(request.user, User):
        return redirect("account_login")
    with transaction.atomic():
        # One at a time, or two links begun at once would both be there.
        user = User.objects.select_for_update(no_key=True).get(pk=request.user.pk)
        mine = SocialAccount.objects.filter(user=user, provider=provider_id())
        if account.pk is not None and account.user_id != user.pk:
            messages.error(request, "That account is somebody else's here.")
        elif mine.exclude(uid=account.uid).exists():
            messages.error(request, "You have linked another account already. Unlink that one first.")
        elif account.pk is None:
            account.user = user
            account.save()
            messages.success(request, f"You can sign in with {settings.OIDC_NAME} from now on.")
    return redirect("mfa_index")


def _create(request: HttpRequest, sociallogin: Any) -> None:
    """An account without any rights. Its name ends in what the subject decides, so that nobody gets one by choosing it:
    approval policies know people by their names.
    """
    claims = sociallogin.claims
    called = str(claims.get("preferred_username") or claims.get("email") or "").partition("@")[0].lower()
    end = hashlib.sha256(f"{claims['iss']}\n{claims['sub']}".encode()).hexdigest()[:8]
    user = User(
        username=f"{_NOT_IN_NAMES.sub('-', called)[:40].strip('-') or 'person'}-{end}",
        email=_address_of(claims),
        first_name=visible(str(claims.get("given_name") or ""), limit=100),
        last_name=visible(str(claims.get("family_name") or ""), limit=100),
        password=make_password(None),
    )
    if User.objects.filter(username=user.username).exists():
        _refuse(request, "There is somebody of that name already. Ask an admin.")
    user.made_by_provider = True  # type: ignore[attr-defined]  # for the record of the link
    with transaction.atomic():
        user.save(force_insert=True)
        sociallogin.user = sociallogin.account.user = user
        sociallogin.account.save()


def _address_of(claims: dict[str, Any]) -> str:
    """For notices; only what the provider has checked."""
    address = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(address, str) or len(address) > 254:
        return ""
    try:
        validate_email(address)
    except ValidationError:
        return ""
    return address


def _refuse(request: HttpRequest, why: str) -> NoReturn:
    on_record.failed(request, "", by="oidc")
    raise ImmediateHttpResponse(render(request, "socialaccount/authentication_error.html", {"why": why}, status=403))
