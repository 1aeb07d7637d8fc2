"""What people do about their own sign-in. Of allauth only what is named: no sign-up, no password by e-mail."""

from __future__ import annotations

from typing import Any, NoReturn

from allauth.account import views as accounts
from allauth.mfa.base import views as codes
from allauth.mfa.recovery_codes import views as recovery
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as passkeys
from django.http import Http404, HttpRequest
from django.urls import path

from jitaccess.identity import pages, provider_pages
from jitaccess.identity.pages import known_first, whole


def nothing_here(request: HttpRequest, **_: Any) -> NoReturn:  # noqa: ARG001 - Django passes it
    raise Http404


urlpatterns = [
    path("login/", pages.SignIn.as_view(), name="account_login"),
    path("logout/", accounts.logout, name="account_logout"),
    path("inactive/", accounts.account_inactive, name="account_inactive"),
    path("password/change/", pages.change_password, name="account_change_password"),
    # Where allauth sends whoever has no password to change; none is set from a session that somebody left open.
    path("password/set/", nothing_here, name="account_set_password"),
    path("security/", pages.security, name="mfa_index"),
    path("security/", pages.security, name="mfa_list_webauthn"),
    path("sessions/end/", pages.end, name="sessions_end"),
    # Proof of who one is, once more.
    path("reauthenticate/", pages.Prove.as_view(), name="account_reauthenticate"),
    path("reauthenticate/code/", whole(codes.reauthenticate), name="mfa_reauthenticate"),
    path("reauthenticate/passkey/", whole(passkeys.reauthenticate_webauthn), name="mfa_reauthenticate_webauthn"),
    path("reauthenticate/provider/", provider_pages.reauthenticate, name="oidc_reauthenticate"),
    # Second factors.
    path("two-factor/", whole(pages.SecondStep.as_view()), name="mfa_authenticate"),
    path("totp/add/", known_first(whole(pages.AddApp.as_view())), name="mfa_activate_totp"),
    path("totp/remove/", known_first(whole(totp.deactivate_totp)), name="mfa_deactivate_totp"),
    path("passkeys/sign-in/", passkeys.login_webauthn, name="mfa_login_webauthn"),
    path("passkeys/add/", known_first(whole(pages.AddPasskey.as_view())), name="mfa_add_webauthn"),
    path("passkeys/<int:pk>/remove/", known_first(whole(pages.RemovePasskey.as_view())), name="mfa_remove_webauthn"),
    path("recovery-codes/", pages.recovery_codes, name="mfa_view_recovery_codes"),
    path(
        "recovery-codes/new/", known_first(whole(recovery.generate_recovery_codes)), name="mfa_generate_recovery_codes"
    ),
    # OpenID Connect.
    path("oidc/login/", provider_pages.login, name="oidc_login"),
    path("oidc/callback/", provider_pages.callback, name="oidc_callback"),
    path("oidc/link/", known_first(provider_pages.link), name="oidc_link"),
    path("oidc/unlink/", pages.unlink, name="oidc_unlink"),
]
