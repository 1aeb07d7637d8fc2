"""What stands at an address until its page is written."""

from __future__ import annotations

from typing import Any, NoReturn

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from jitaccess.kernel.errors import NotFound
from requests_app.pages import View, page


def page_to_come(title: str) -> View[...]:
    """A page with its name and nothing on it."""

    @page
    @require_safe
    def shown(request: HttpRequest, /, **_arguments: Any) -> HttpResponse:
        return render(request, "web/to_come.html", {"title": title})

    return shown


def form_to_come(back: str) -> View[...]:
    """The address of a form: whatever is sent, nothing happens."""

    @page(back=back)
    @require_POST
    def refused(_request: HttpRequest, /, **_arguments: Any) -> NoReturn:
        raise NotFound("page.unknown", "There is no such form.")

    return refused


@csrf_exempt
def endpoint_to_come(request: HttpRequest, **_arguments: Any) -> HttpResponse:  # noqa: ARG001 - Django passes it
    """The address of programs."""
    return HttpResponse(status=404)
