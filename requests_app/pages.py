"""What the pages of people have in common: who asks, refusals as pages, signing in first, parts for htmx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, overload

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django_htmx.http import HttpResponseClientRedirect

from jitaccess.identity.models import User
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.once import one_look

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]
_TITLES = {
    400: "That did not make sense",
    403: "You may not do this",
    404: "Not found",
    409: "Not possible any more",
    503: "Busy right now",
}
_WORDS = ("reason", "note", "text", "call_arguments", "schema", "objects")
_SIGNED_OUT = "You were not signed in any more, so nothing was decided or changed. Sign in, and look at it again."


def person_of(request: HttpRequest) -> User:
    """Who is signed in; behind `page` somebody is."""
    assert isinstance(request.user, User)
    return request.user


def source_of(request: HttpRequest) -> str:
    """The address it came from, for the record."""
    return str(request.META.get("REMOTE_ADDR", ""))


def is_partial(request: HttpRequest) -> bool:
    """Whether htmx asks for a part of a page, and not for the page."""
    htmx: Any = getattr(request, "htmx", None)
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def partial(
    request: HttpRequest, page: str, block: str, context: Mapping[str, Any] | None = None, *, status: int = 200
) -> HttpResponse:
    """The template `block` for htmx, else the whole `page` that includes it."""
    return render(request, block if is_partial(request) else page, context, status=status)


def written(request: HttpRequest) -> str:
    """The words in the form that was sent: whoever is refused gets them back."""
    arguments = [f"{name[4:84]}: {text[:8000]}" for name, text in request.POST.items() if name[:4] == "arg:" and text]
    return "\n\n".join(filter(None, (*(request.POST.get(name, "")[:8000].strip() for name in _WORDS), *arguments)))


def refusal(request: HttpRequest, error: JitAccessError) -> HttpResponse:
    """A refusal as a page."""
    title = _TITLES.get(error.http_status, "That did not work")
    told = {"title": title, "detail": error.detail, "written": written(request)}
    return render(request, "web/refusal.html", told, status=error.http_status)


def refusals_are_pages(view: View[P]) -> View[P]:
    """For pages that need nobody signed in; all others take `page`."""

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except JitAccessError as error:
            return refusal(request, error)

    return guarded


@overload
def page(view: View[P], /) -> View[P]: ...
@overload
def page(*, back: str) -> Callable[[View[P]], View[P]]: ...


def page(view: View[P] | None = None, /, *, back: str = "") -> View[P] | Callable[[View[P]], View[P]]:
    """A page, or a form's address, for people who are signed in; JitAccessErrors become pages.

    `back` is the URL name of the page of the thing that a form is about, with the same arguments or with none: whoever
    is signed out comes back there, never to the form's own address, and is told that nothing was decided.
    """

    def decorated(view: View[P]) -> View[P]:
        guarded = refusals_are_pages(view)

        @wraps(view)
        def answered(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if request.user.is_authenticated:
                with one_look() if request.method in {"GET", "HEAD"} else nullcontext():
                    return guarded(request, *args, **kwargs)
            return _sign_in_first(request, back, kwargs)

        return answered

    return decorated(view) if view else decorated


def _sign_in_first(request: HttpRequest, back: str, arguments: Mapping[str, Any]) -> HttpResponseBase:
    htmx: Any = getattr(request, "htmx", None)
    safe = request.method in {"GET", "HEAD"}
    words = "" if safe or htmx else written(request)
    if not safe and not words:
        messages.warning(request, _SIGNED_OUT)
    if htmx:
        # None unless it is a page of this site: the header says what the browser shows.
        return HttpResponseClientRedirect(redirect_to_login(htmx.current_url_abs_path or "/").url)
    answer = redirect_to_login(request.get_full_path() if safe and not back else _page_of(back, arguments))
    if not words:
        return answer
    return render(request, "web/signed_out.html", {"url": answer.url, "written": words}, status=403)


def _page_of(back: str, arguments: Mapping[str, Any]) -> str:
    for given in (arguments, {}):
        with suppress(NoReverseMatch):
            return reverse(back, kwargs=dict(given))
    return "/"
