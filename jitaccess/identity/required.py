"""Middleware: whoever has to have a second factor sets it up before anything else (MFA_REQUIRED)."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect

from jitaccess.identity.models import User
from jitaccess.identity.pages import HOME
from jitaccess.identity.proof import without_required_factor

# What is needed to set one up, and to leave.
_OPEN = ("/accounts/", "/static/", "/sign-in/", "/favicon.ico")
_FOR_PROGRAMS = ("/api/", "/access/")
MISSING = "second_factor.missing"
DETAIL = "A second factor is needed here: add a passkey or an authenticator app on your sign-in page first."


class SecondFactorFirst:
    """Also for what is asked with a session's cookie over the API. Tokens are of agents, and never come here."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if settings.MFA_REQUIRED == "none" or request.path.startswith(_OPEN):
            return self._get_response(request)
        user = request.user
        if not isinstance(user, User) or not without_required_factor([user]):
            return self._get_response(request)
        if request.path.startswith(_FOR_PROGRAMS):
            problem = {"type": "about:blank", "title": "Forbidden", "status": 403, "code": MISSING}
            return JsonResponse(problem | {"detail": DETAIL}, status=403, content_type="application/problem+json")
        if request.method not in {"GET", "HEAD"}:
            messages.warning(request, "Nothing was decided or changed.")
        return redirect(HOME)
