"""Who you are, what there is, and the documentation."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer

from jitaccess.api import shapes
from jitaccess.api.conf import PREFIX
from jitaccess.api.endpoint import Endpoint, Request, Response, caller_of
from jitaccess.api.schema import documented

PLACES = (
    "me",
    "requests",
    "requestable",
    "grants",
    "delegations",
    "agents",
    "servers",
    "tools",
    "roles",
    "bindings",
    "locks",
    "webhooks",
    "ledger/entries",
    "ledger/checkpoints",
    "openapi.json",
    "docs/",
)


class Index(Endpoint):
    @documented("index", "What there is", "Links relative to this host.", tag="about", answer=shapes.Index)
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the framework passes it
        return Response({"links": {place.strip("/").replace("/", "_"): f"{PREFIX}{place}" for place in PLACES}})


class Me(Endpoint):
    @documented("me", "Who you are here", "As the ledger would name you.", tag="about", answer=shapes.Me)
    def get(self, request: Request) -> Response:
        caller = caller_of(request)
        principal = caller.principal
        expires = principal.token_expires_at
        return Response(
            {
                "kind": "person" if caller.person else "agent",
                "label": principal.label,
                "agent": principal.agent_name or None,
                "user": principal.user_name or None,
                "token_expires_at": expires.isoformat() if expires else None,
            }
        )


class Open(Endpoint):
    """For whoever comes by: there is nothing here that is not in the source."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


@extend_schema(exclude=True)
class OpenApi(Open):
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the framework passes it
        return Response(_document())


class Page(JSONRenderer):
    """So that a browser may ask for HTML; refusals stay problems."""

    media_type = "text/html"
    format = "html"


@extend_schema(exclude=True)
class Docs(Open):
    renderer_classes = (Page,)

    def get(self, request: Request) -> HttpResponse:
        return render(request, "api/docs.html", {"openapi": f"{PREFIX}openapi.json"})


@extend_schema(exclude=True)
class Unknown(Open):
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404

    def get(self, request: Request) -> Response:
        """Never reached: `initial` refuses every method."""
        raise Http404(request.path)


@cache
def _document() -> Any:
    from drf_spectacular.generators import SchemaGenerator  # a tenth of a second that a start need not take

    generator: Any = SchemaGenerator()  # type: ignore[no-untyped-call]  # not typed there
    return generator.get_schema(request=None, public=True)
