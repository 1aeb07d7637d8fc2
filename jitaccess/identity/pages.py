"""The pages of one's own sign-in: second factors, browsers, the account at the provider. Nobody sees another's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from allauth.account.internal.decorators import login_stage_required
from allauth.account.views import LoginView, ReauthenticateView, password_change
from allauth.mfa.base.views import AuthenticateView
from allauth.mfa.models import Authenticator
from allauth.mfa.stages import AuthenticateStage
from allauth.mfa.totp.views import ActivateTOTPView
from allauth.mfa.webauthn.views import AddWebAuthnView, RemoveWebAuthnView
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from jitaccess.identity.adapters import operator_of, page_of, passkeys_work
from jitaccess.identity.attempts import known, remember
from jitaccess.identity.factors import use_step
from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import User
from jitaccess.identity.proof import (
    PASSWORD,
    factors_of,
    has_second_factor,
    known_again,
    note_step,
    ways_of,
    without_required_factor,
)
from jitaccess.identity.signed_in import end_session, end_sessions, sessions_of
from jitaccess.kernel.errors import NotFound
from jitaccess.store.clock import now

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]
HOME = "mfa_index"


def known_first(view: View[P]) -> View[P]:
    """For pages that change how somebody signs in: whoever finds an open browser must not make it theirs.

    A form comes to its page after the proof, never by itself to what it would have done.
    """

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        target = request.path if request.method in {"GET", "HEAD"} else reverse(HOME)
        first = proof_first(request, request.user, back=target) if isinstance(request.user, User) else None
        return first or view(request, *args, **kwargs)

    return guarded


def proof_first(request: HttpRequest, person: User, *, back: str) -> HttpResponseBase | None:
    """To where they prove who they are, and `back` from there; None for who has just done so."""
    if known_again(request, person):
        return None
    factors = factors_of(person)
    if not factors and not ways_of(person):
        messages.warning(request, "Sign in anew for this: it is possible within a few minutes of a sign-in.")
        return redirect(HOME)
    if factors:
        messages.info(request, "For this use a second factor that you have: a password alone is not enough.")
    proof = page_of(factors[0]) if factors else reverse("account_reauthenticate")
    return redirect(f"{proof}?{urlencode({'next': back})}")


def whole(view: View[P]) -> View[P]:
    """A form and what it puts on record are one transaction; allauth's views make none."""

    @wraps(view)
    def answered(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if request.method in {"GET", "HEAD"}:
            return view(request, *args, **kwargs)
        with transaction.atomic():
            return view(request, *args, **kwargs)

    return answered


class SignIn(LoginView):  # type: ignore[misc]  # allauth ships no types
    """With the ways in that there are here."""

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        said: dict[str, Any] = super().get_context_data(**given)
        ways = {"local_passwords": settings.LOCAL_PASSWORDS, "passkeys_work": passkeys_work()}
        return said | ways | {"provider": settings.OIDC_NAME if settings.OIDC_ISSUER else ""}


@method_decorator(login_stage_required(stage=AuthenticateStage.key, redirect_urlname="account_login"), name="dispatch")
class SecondStep(AuthenticateView):  # type: ignore[misc]  # allauth ships no types
    """The second step of a sign-in. Without what it asks for it is over: allauth would go in circles."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        stage = request._login_stage  # type: ignore[attr-defined]  # noqa: SLF001 - so the decorator calls it
        if stage.login.user is None or not has_second_factor(stage.login.user):
            messages.warning(request, "Your second factor was removed meanwhile. Sign in again.")
            over: HttpResponseBase = stage.abort()
            return over
        answer: HttpResponseBase = super().dispatch(request, *args, **kwargs)
        return answer


class AddApp(ActivateTOTPView):  # type: ignore[misc]  # allauth ships no types
    """The code that adds an app is used up by that (RFC 6238 section 5.2), and proves that they have it."""

    def form_valid(self, form: Any) -> HttpResponseBase:
        answer: HttpResponseBase = super().form_valid(form)
        person = _person(self.request)
        app = Authenticator.objects.get(user=person, type=Authenticator.Type.TOTP)
        use_step(app.pk)
        note_step(self.request, person, "mfa", id=app.pk, type=app.type, reauthenticated=True)
        return answer


class AddPasskey(AddWebAuthnView):  # type: ignore[misc]  # allauth ships no types
    """Who has just made a passkey has it: they need not use it once more to see their recovery codes."""

    def form_valid(self, form: Any) -> HttpResponseBase:
        answer: HttpResponseBase = super().form_valid(form)
        note_step(self.request, _person(self.request), "mfa", type=Authenticator.Type.WEBAUTHN, reauthenticated=True)
        return answer


class RemovePasskey(RemoveWebAuthnView):  # type: ignore[misc]  # allauth ships no types
    """Not the only way in: without it they could come back by a link only."""

    def form_valid(self, form: Any) -> HttpResponseBase:
        person = _person(self.request)
        others = Authenticator.objects.filter(user=person, type=Authenticator.Type.WEBAUTHN).exclude(pk=self.object.pk)
        by_itself = any(row.wrap().is_passwordless for row in others)
        password = settings.LOCAL_PASSWORDS and person.has_usable_password()
        if not (by_itself or password or _identity(person)) and self.object.wrap().is_passwordless:
            messages.error(self.request, "You sign in with it, and in no other way yet. Add another passkey first.")
            return redirect(HOME)
        answer: HttpResponseBase = super().form_valid(form)
        return answer


class Prove(ReauthenticateView):  # type: ignore[misc]  # allauth ships no types
    """The page of passwords; leads to a better way where there is one, unless this one was picked."""

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        best = ways_of(_person(request))[:1]
        if best != (PASSWORD,) and request.GET.get("way") != PASSWORD:
            methods = get_adapter(request).get_reauthentication_methods(request.user)
            return redirect(self.passthrough_next_url(methods[0]["url"]))
        answer: HttpResponseBase = super().get(request, *args, **kwargs)
        return answer


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@known_first
@whole
def recovery_codes(request: HttpRequest) -> HttpResponse:
    """How many are left; a POST shows them, once. What browsers fetch by themselves must not use that up."""
    rows = Authenticator.objects.filter(user=_person(request), type=Authenticator.Type.RECOVERY_CODES)
    showing = request.method == "POST"
    row = (rows.select_for_update() if showing else rows).first()
    if row is None:
        raise Http404
    codes = row.wrap()
    seen = codes.did_view
    if showing:
        codes.mark_as_viewed()
    left = codes.get_unused_codes()
    context = {"codes": left if showing and not seen else None, "seen": seen, "left": len(left)}
    return render(request, "mfa/recovery_codes/index.html", context)


@login_required
def change_password(request: HttpRequest) -> HttpResponseBase:
    """As allauth's. Signs out elsewhere, and makes strangers of all browsers: but not of this one."""
    person = _person(request)
    number = known(request, person)
    answer: HttpResponseBase = password_change(request)
    if number and request.method == "POST" and answer.status_code == 302:
        remember(answer, person, number=number)
    return answer


@login_required
@require_safe
def security(request: HttpRequest) -> HttpResponse:
    """How one signs in, and where one is signed in."""
    user = _person(request)
    factors = list(Authenticator.objects.filter(user=user).order_by("pk"))
    codes = next((one.wrap() for one in factors if one.type == Authenticator.Type.RECOVERY_CODES), None)
    context: dict[str, Any] = {
        "totp": next((one for one in factors if one.type == Authenticator.Type.TOTP), None),
        "passkeys": [
            {"id": one.pk, "name": one.wrap().name, "added": one.created_at, "used": one.last_used_at}
            for one in factors
            if one.type == Authenticator.Type.WEBAUTHN
        ],
        "codes_left": len(codes.get_unused_codes()) if codes else None,
        "passkeys_work": passkeys_work(),
        "password": settings.LOCAL_PASSWORDS and user.has_usable_password(),
        "provider": settings.OIDC_NAME if settings.OIDC_ISSUER else "",
        "identity": _identity(user),
        "required": bool(without_required_factor([user])),
        "sessions": sessions_of(user, here=request.session.session_key or ""),
        "now": now(),
    }
    return render(request, "account/security.html", context)


@login_required
@require_POST
def end(request: HttpRequest) -> HttpResponse:
    """`which`: the number of a browser, "others" or "all"."""
    user, which, actor = _person(request), request.POST.get("which", ""), operator_of(request)
    if which == "others":
        number = known(request, user)
        end_sessions(user=user, actor=actor, why="asked for", keep=request)
        messages.success(request, "Every other browser is signed out.")
        answer = redirect(HOME)
        if number:
            remember(answer, user, number=number)
        return answer
    if which == "all":
        end_sessions(user=user, actor=actor, why="asked for")
        logout(request)
        return redirect("account_login")
    try:
        end_session(user=user, session=int(which) if which.isascii() and which.isdigit() else 0, actor=actor)
    except NotFound as error:
        raise Http404(error.detail) from error
    messages.success(request, "That browser is signed out.")
    return redirect(HOME)


@login_required
@require_POST
@known_first
@whole
def unlink(request: HttpRequest) -> HttpResponse:
    """Forget the account at the provider, unless nothing else would sign this person in."""
    user = _person(request)
    if not (settings.LOCAL_PASSWORDS and user.has_usable_password()) and not _has_passkey(user):
        messages.error(request, "You sign in with it, and in no other way yet. Add a passkey first.")
        return redirect(HOME)
    SocialAccount.objects.filter(user=user, provider=provider_id()).delete()
    messages.success(request, f"You no longer sign in with {settings.OIDC_NAME}.")
    return redirect(HOME)


def _identity(user: User) -> SocialAccount | None:
    if not settings.OIDC_ISSUER:
        return None
    return SocialAccount.objects.filter(user=user, provider=provider_id()).first()


def _has_passkey(user: User) -> bool:
    """One that signs in by itself, not only as a second step."""
    rows = Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN)
    return any(row.wrap().is_passwordless for row in rows)


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
