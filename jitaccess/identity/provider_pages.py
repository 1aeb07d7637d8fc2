"""To the OpenID Connect provider, and back. Nothing here is where none is configured."""

from __future__ import annotations

import time
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.utils import get_next_redirect_url
from allauth.socialaccount.providers.base.constants import AuthProcess
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import User
from jitaccess.identity.pages import HOME
from jitaccess.identity.proof import PROVIDER, ways_of
from jitaccess.kernel.errors import JitAccessError


@require_POST
def login(request: HttpRequest) -> HttpResponseBase:
    """By POST with its token: else another page could sign people in as somebody else."""
    if request.user.is_authenticated:
        return redirect("/")
    return _leave(request, AuthProcess.LOGIN, get_next_redirect_url(request))


@login_required
@require_POST
def link(request: HttpRequest) -> HttpResponseBase:
    """Tie the account there to the person who is signed in here."""
    return _leave(request, AuthProcess.CONNECT, reverse(HOME))


@login_required
@require_http_methods(["GET", "POST"])
def reauthenticate(request: HttpRequest) -> HttpResponseBase:
    """For those who have nothing else to prove themselves by; the provider has to ask them again."""
    assert isinstance(request.user, User)
    if PROVIDER not in ways_of(request.user):
        return redirect("account_reauthenticate")
    target = get_next_redirect_url(request) or "/"
    if request.method == "GET":
        said = {"next": target, "provider": settings.OIDC_NAME}
        return render(request, "account/reauthenticate_provider.html", said)
    again = {"prompt": "login", "max_age": "0"}
    return _leave(request, AuthProcess.REDIRECT, target, auth_params=again, data={"asked": time.time()})


@require_safe
def callback(request: HttpRequest) -> HttpResponseBase:
    """Where the provider sends the browser back to."""
    _configured()
    from allauth.socialaccount.helpers import render_authentication_error
    from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView

    from jitaccess.identity.oidc import Adapter

    adapter = Adapter(request, provider_id())
    issuer = request.GET.get("iss", settings.OIDC_ISSUER)
    try:
        if issuer == settings.OIDC_ISSUER:  # else the answer of another provider is passed off as this one's (RFC 9207)
            answer: HttpResponseBase = OAuth2CallbackView.adapter_view(adapter)(request)
            return answer
    except JitAccessError:
        pass  # the provider may not be reached: told as every other failure
    failed: HttpResponse = render_authentication_error(request, adapter.get_provider())
    return failed


def _leave(request: HttpRequest, process: str, target: str | None, **more: Any) -> HttpResponseBase:
    """A page that leads on: our pages may send no form elsewhere, nor follow one there (CSP, form-action)."""
    _configured()
    from allauth.socialaccount.adapter import get_adapter as social
    from allauth.socialaccount.helpers import render_authentication_error
    from allauth.socialaccount.providers.oauth2.client import OAuth2Error

    provider = social(request).get_provider(request, provider_id())
    safe = target if target and get_adapter(request).is_safe_url(target) else None
    try:
        answer = provider.redirect(request, process, next_url=safe, **more)
    except (OAuth2Error, OSError, ValueError, JitAccessError):  # requests' own errors are OSErrors
        failed: HttpResponse = render_authentication_error(request, provider)
        return failed
    if answer.status_code != 302:
        refused: HttpResponse = answer
        return refused
    return render(request, "account/leave.html", {"url": answer.url, "provider": settings.OIDC_NAME})


def _configured() -> None:
    if not settings.OIDC_ISSUER:
        raise Http404
