from __future__ import annotations

from typing import NoReturn

from allauth.account import views as accounts
from django.contrib import admin
from django.http import Http404, HttpRequest
from django.urls import include, path

from jitaccess.api.authzen import urls as authzen


def nothing_here(request: HttpRequest) -> NoReturn:  # noqa: ARG001 - Django passes it
    raise Http404


handler400, handler403 = "jitaccess.api.problems.handler400", "jitaccess.api.problems.handler403"
handler404, handler500 = "jitaccess.api.problems.handler404", "jitaccess.api.problems.handler500"

# Here and not with the app's start: no command and no gateway has an admin.
admin.autodiscover()

# Not all of allauth: no sign-up, no password by e-mail, none set from a session that somebody left open.
urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/login/", accounts.login, name="account_login"),
    path("accounts/logout/", accounts.logout, name="account_logout"),
    path("accounts/inactive/", accounts.account_inactive, name="account_inactive"),
    path("accounts/reauthenticate/", accounts.reauthenticate, name="account_reauthenticate"),
    path("accounts/password/change/", accounts.password_change, name="account_change_password"),
    # Where allauth sends whoever wants to change a password and has none.
    path("accounts/password/set/", nothing_here, name="account_set_password"),
    path("api/", include("jitaccess.api.urls")),
    path("access/v1/", include("jitaccess.api.authzen.urls")),
    path(".well-known/", include(authzen.well_known)),
    path("slack/", include("jitaccess.notify.slack.urls")),
    path("", include("jitaccess.notify.urls")),
    path("", include("jitaccess.web.urls")),
]
