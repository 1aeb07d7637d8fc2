"""What is there for people who are not signed in: the sign-in link, and what browsers ask for unbidden."""

from __future__ import annotations

from allauth.account.utils import perform_login
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_safe

from jitaccess.identity.proof import LINK, note_step
from jitaccess.identity.services import link_owner, use_sign_in_link
from requests_app.pages import refusals_are_pages, source_of


@require_http_methods(["GET", "HEAD", "POST"])
@refusals_are_pages
def sign_in(request: HttpRequest, token: str) -> HttpResponse:
    """GET only asks: a link preview or a scanner that opens the address must not use the link up."""
    target = _local(request.POST.get("next") or request.GET.get("next") or "/")
    if request.method != "POST":
        return render(request, "web/sign_in.html", {"owner": link_owner(token), "next": target})
    user = use_sign_in_link(token, source=source_of(request))
    if request.user.is_authenticated:
        logout(request)
    note_step(request, user, LINK)
    # Who has a second factor is asked for it: a link is the first.
    answer: HttpResponse = perform_login(request, user, redirect_url=target)
    return answer


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django passes it
    """Browsers ask for it on pages that name no icon."""
    return redirect(static("jitaccess/mark.svg"))


@require_safe
def robots(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django passes it
    return HttpResponse("User-agent: *\nDisallow: /\n", content_type="text/plain")


def _local(target: str) -> str:
    """`target` when it is a path on this site, else the inbox: a sign-in link must not send people elsewhere."""
    local = target.startswith("/") and url_has_allowed_host_and_scheme(target, allowed_hosts=None)
    return target if local else "/"
