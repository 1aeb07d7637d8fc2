"""What the AuthZEN addresses have in common: the caller's name for a request is given back, and refusals are problems,
of the profile's types where it has one.
"""

from __future__ import annotations

from typing import Any, cast

from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.response import Response

from jitaccess.api.authzen.problems import DuplicateRequest, ProfileProblem
from jitaccess.api.endpoint import Endpoint, Request
from jitaccess.api.idempotency import KeyReused
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonObject

REQUEST_ID = "X-Request-ID"


class AuthZen(Endpoint):
    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if (name := request.headers.get(REQUEST_ID)) is not None:
            response.headers[REQUEST_ID] = name
        return response

    def handle_exception(self, exc: Exception) -> Response:
        match exc:
            case UnsupportedMediaType():  # "Bad Request" in the table of Authorization API 1.0, "Error Responses"
                exc = Invalid("body.media_type", "The body has to be application/json.")
            case KeyReused():
                exc = DuplicateRequest(exc.detail)
            case _:
                pass
        response = super().handle_exception(exc)
        if isinstance(exc, ProfileProblem) and isinstance(response.data, dict):
            response.data["type"] = exc.type
        return response


def posted(request: Request) -> JsonObject:
    """The body: the one parser there is gives an object or raises Invalid."""
    return cast("JsonObject", request.data)
