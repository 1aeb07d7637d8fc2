"""The admin site itself: its name, one sign-in for the whole product, and what needs somebody on its first page."""

# ruff: noqa: ARG001 - Django's signatures and names

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse


@dataclass(frozen=True, slots=True)
class Attention:
    """`count` of something that waits for somebody, with the page that lists exactly those; not shown when 0."""

    label: str
    count: int
    url: str
    tone: str = "wait"


# Each says what needs attention, as far as this person may see it: filled by the admin modules that know.
ATTENTION: list[Callable[[HttpRequest], Iterable[Attention]]] = []


def may_look(request: HttpRequest, kind: str) -> bool:
    """Whether the admin shows this person rows of `kind`, such as "jit_catalog.tool"."""
    app, _, model = kind.partition(".")
    user: Any = request.user
    return bool(user.has_perm(f"{app}.view_{model}") or user.has_perm(f"{app}.change_{model}"))


def listed(kind: str, query: str = "") -> str:
    """The address of a list in the admin, such as "jit_catalog.tool" with "state=changed"."""
    name = kind.replace(".", "_")
    return f"{reverse(f'admin:{name}_changelist')}?{query}"


def index(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
    """Django's first page, and above it what needs attention."""
    found = [one for source in ATTENTION for one in source(request) if one.count]
    context = {"attention": found, **(extra_context or {})}
    return admin.AdminSite.index(admin.site, request, context)


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
    admin.site.index_template = "admin/attention.html"
    admin.site.index = index  # type: ignore[method-assign,assignment]  # the site is Django's, and one
    admin.site.login = sign_in  # type: ignore[method-assign,assignment]  # the site is Django's, and one
    admin.site.password_change = change_own_password  # type: ignore[method-assign,assignment]  # the site is Django's, and one
