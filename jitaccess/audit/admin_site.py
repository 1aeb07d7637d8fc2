"""The admin site itself: its name, and one sign-in for the whole product."""

# ruff: noqa: ARG001 - Django's signatures and names

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse


def sign_in(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
    """In place of the admin's own login: people sign in at LOGIN_URL, which checks `next` itself.

    Whoever is signed in and still lands here may not enter; sending them to sign in again would go in circles.
    """
    if not request.user.is_authenticated:
        return redirect_to_login(request.GET.get("next") or reverse("admin:index"), settings.LOGIN_URL)
    if not admin.site.has_permission(request):
        raise PermissionDenied
    return redirect("admin:index")


def change_own_password(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
    return redirect("account_change_password")


def set_up() -> None:
    admin.site.site_header = admin.site.site_title = "jitaccess"
    admin.site.index_title = "Administration"
    admin.site.site_url = "/"
    admin.site.login = sign_in  # type: ignore[method-assign,assignment]  # the site is Django's, and one
    admin.site.password_change = change_own_password  # type: ignore[method-assign,assignment]  # the site is Django's, and one
