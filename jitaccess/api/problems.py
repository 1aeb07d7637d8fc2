"""Every refusal as an RFC 9457 problem: one place maps errors to statuses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.views import defaults
from rest_framework.exceptions import APIException, ErrorDetail, Throttled, ValidationError
from rest_framework.response import Response

from jitaccess.api.conf import PREFIX, PREFIXES
from jitaccess.kernel.errors import JitAccessError, Unavailable
from jitaccess.kernel.text import visible

MEDIA_TYPE = "application/problem+json"
_CODES = {
    "not_authenticated": "auth.missing",
    "permission_denied": "auth.csrf",
    "method_not_allowed": "method.not_allowed",
    "not_acceptable": "accept.unsupported",
    "unsupported_media_type": "body.media_type",
    "throttled": "throttled",
    "not_found": "path.unknown",
}

# The first that fits.
_PLAIN: tuple[tuple[type[Exception], int, str, str], ...] = (
    (Http404, 404, "path.unknown", "There is nothing at this address."),
    (PermissionDenied, 403, "not_permitted", "You may not do this."),
    (RequestDataTooBig, 413, "body.too_large", "The body is too large."),
    (SuspiciousOperation, 400, "request.malformed", "The request cannot be read."),
    (BadRequest, 400, "request.malformed", "The request cannot be read."),
    (MultiPartParserError, 400, "request.malformed", "The request cannot be read."),
    (OperationalError, 503, "database.unavailable", "The database is busy or away; try again."),
    (Exception, 500, "internal", "This is a defect; it is in the log."),
)

log = logging.getLogger(__name__)


class BadQuery(ValidationError):
    """What is wrong is in the query of the URL: errors name parameters instead of pointing into the body."""


class TooLarge(APIException):
    status_code = 413
    default_detail = "The body is too large."
    default_code = "body.too_large"


def body_of(status: int, code: str, detail: str, instance: str) -> dict[str, Any]:
    """A problem document. `type` leads to the documentation; `code` is what programs go by."""
    return {
        "type": f"{PREFIX}docs/#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": visible(detail, limit=2000),
        "instance": visible(instance, limit=2000),
        "code": code,
    }


def on_exception(error: Exception, context: Mapping[str, Any]) -> Response:
    """The problem that answers `error`: DRF's EXCEPTION_HANDLER. What nobody expected is logged and says nothing."""
    instance = context["request"].path
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    match error:
        case JitAccessError():
            status, code, detail = error.http_status, error.code, error.detail
            params = {key: value for key, value in error.params.items() if isinstance(value, str | int)}
            more = {"params": params} if params else {}
            wait = params.get("retry_after_seconds", 1 if isinstance(error, Unavailable) else None)
            headers = {"Retry-After": str(wait)} if wait is not None else {}
        case ValidationError():
            status, code, detail = 400, "input.invalid", "The input does not fit; see `errors`."
            more = {"errors": list(_errors(error.detail, "parameter" if isinstance(error, BadQuery) else "pointer"))}
        case APIException():
            given = str(error.get_codes())
            status, code, detail = error.status_code, _CODES.get(given, given), str(error.detail)
            if isinstance(error, Throttled):
                headers["Retry-After"] = str(math.ceil(getattr(error, "wait", None) or 1))
            if challenge := getattr(error, "auth_header", None):
                headers["WWW-Authenticate"] = challenge
        case _:
            status, code, detail = _plain(error, instance)
            headers = {"Retry-After": "1"} if status == 503 else {}
    return Response(
        body_of(status, code, detail, instance) | more, status=status, headers=headers, content_type=MEDIA_TYPE
    )


def _plain(error: Exception, instance: str) -> tuple[int, str, str]:
    status, code, detail = next((row[1], row[2], row[3]) for row in _PLAIN if isinstance(error, row[0]))
    if status >= 500:
        log.error("%s is answered with %d", visible(instance, limit=200), status, exc_info=error)
    return status, code, detail


def under_api(
    status: int, code: str, detail: str, otherwise: Callable[..., HttpResponse]
) -> Callable[..., HttpResponse]:
    """A Django error handler that answers with a problem under our APIs and with `otherwise` elsewhere."""

    def handler(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.path.startswith(("/api/", *PREFIXES)):
            return otherwise(request, *args, **kwargs)
        return JsonResponse(
            body_of(status, code, detail, request.path),
            status=status,
            content_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store"},
        )

    return handler


# What goes wrong before a view is reached, such as a wrong Host.
handler400 = under_api(400, "request.malformed", "The request cannot be read.", defaults.bad_request)
handler403 = under_api(403, "not_permitted", "You may not do this.", defaults.permission_denied)
handler404 = under_api(404, "path.unknown", "There is nothing at this address.", defaults.page_not_found)
handler500 = under_api(500, "internal", "This is a defect; it is in the log.", defaults.server_error)


def _errors(detail: Any, kind: str, path: str = "") -> Iterator[dict[str, str]]:
    """The framework's nested errors, flat; `kind` is how their places are named: JSON pointers or parameters."""
    if isinstance(detail, ErrorDetail):
        where = path if kind == "pointer" else path.split("/")[1]
        yield {kind: visible(where, limit=200), "code": detail.code or "invalid", "detail": visible(detail, limit=500)}
    elif isinstance(detail, dict):
        for name, inner in detail.items():
            step = "" if name == "non_field_errors" else "/" + str(name).replace("~", "~0").replace("/", "~1")
            yield from _errors(inner, kind, path + step)
    else:
        for inner in detail:
            yield from _errors(inner, kind, path)
