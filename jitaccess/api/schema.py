"""How our classes and refusals are told to the generator of the OpenAPI file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
)
from rest_framework import serializers

from jitaccess.api.conf import PREFIXES
from jitaccess.api.parsing import Input
from jitaccess.api.problems import MEDIA_TYPE

F = TypeVar("F", bound=Callable[..., Any])
Answer = type[serializers.Serializer[Any]] | PolymorphicProxySerializer
_WHAT = {
    400: "The request does not fit; `code` and `errors` say where.",
    401: "No session, and no token that is good now.",
    403: "You may not do this. Agents' tokens never decide: `agents_never_decide`.",
    404: "It does not exist, or you may not know that it does.",
    405: "Not with this method.",
    406: "Only JSON is answered.",
    409: "The present state does not allow it; `detail` says what changed.",
    410: "It has expired.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The Idempotency-Key came with another request before.",
    429: "Too many calls; Retry-After says when to come back.",
    500: "A defect.",
    503: "Something needed is busy or away.",
}
_ALWAYS = (400, 401, 403, 404, 405, 406, 429, 500, 503)
_KEY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="1 to 255 printable ASCII characters. Repeated within 24 hours with the same body, it gets the first "
    "answer again, marked `Idempotency-Replayed: true`.",
)


class WhatIsWrong(serializers.Serializer[Any]):
    pointer = serializers.CharField(required=False, help_text="JSON pointer into the body (RFC 6901).")
    parameter = serializers.CharField(required=False, help_text="The parameter of the URL.")
    code = serializers.CharField()
    detail = serializers.CharField()


class Problem(serializers.Serializer[Any]):
    """RFC 9457. Programs go by `code`; `detail` is for people and may be reworded."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()
    errors = WhatIsWrong(many=True, required=False)  # type: ignore[assignment]  # the metaclass takes it out
    params = serializers.DictField(required=False, help_text="What `detail` says, for programs.")


class _Scheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its metaclass registers it
    target_class = "jitaccess.api.caller.Authentication"
    name = ["agentToken", "session"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:  # noqa: ARG002 - its base's
        return [{"agentToken": []}, {"session": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:  # noqa: ARG002 - its base's
        return [
            {"type": "http", "scheme": "bearer", "description": "An agent's access token."},
            {
                "type": "apiKey",
                "in": "cookie",
                "name": "sessionid",
                "description": "A person's session; changes need the header X-CSRFToken too.",
            },
        ]


def only_this_api(endpoints: Iterable[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """A preprocessing hook: other addresses are no part of the contract."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(PREFIXES)]


def shortened(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A postprocessing hook: refusals are said once and referred to, and bodies say that they hold nothing unknown."""
    shared = result["components"].setdefault("responses", {})
    for operations in result["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            for status in [status for status, one in responses.items() if MEDIA_TYPE in one.get("content", {})]:
                shared[f"Problem{status}"] = responses[status]
                responses[status] = {"$ref": f"#/components/responses/Problem{status}"}
    result["components"]["responses"] = dict(sorted(shared.items()))
    for kind in Input.__subclasses__():
        if kind.__name__ in result["components"]["schemas"]:
            result["components"]["schemas"][kind.__name__]["additionalProperties"] = False
    return result


def listing(items: type[serializers.Serializer[Any]]) -> type[serializers.Serializer[Any]]:
    """The shape of a page of `items`."""
    links = {"allow_null": True, "help_text": "A reference relative to this host."}
    members = {
        "items": items(many=True),
        "next": serializers.CharField(**links),  # type: ignore[arg-type]  # one dict for both
        "previous": serializers.CharField(**links),  # type: ignore[arg-type]  # one dict for both
    }
    return type(f"{items.__name__}Page", (serializers.Serializer,), members)


def one_or_many(
    one: type[serializers.Serializer[Any]], many: type[serializers.Serializer[Any]]
) -> PolymorphicProxySerializer:
    """Either shape."""
    return PolymorphicProxySerializer(
        component_name=f"{one.__name__}Or{many.__name__}", serializers=[one, many], resource_type_field_name=None
    )


def _said_of(shape: Answer) -> str:
    one = shape.serializers[0] if isinstance(shape, PolymorphicProxySerializer) else shape
    return inspect.getdoc(one) or ""


def documented(
    operation: str,
    summary: str,
    description: str,
    *,
    tag: str,
    answer: Answer,
    status: int = 200,
    takes: type[Input] | None = None,
    query: type[Input] | None = None,
    keyed: bool = False,
    conflicts: bool = False,
    gone: bool = False,
    public: bool = False,
    headers: Sequence[OpenApiParameter] = (),
    also: Mapping[int, Answer] | None = None,
    examples: Sequence[OpenApiExample] = (),
) -> Callable[[F], F]:
    """An operation with all its refusals. `takes` is its body, `keyed` whether it honours Idempotency-Key, `also`
    are other answers by status; `public`: nobody has to say who they are.
    """
    refusals = [
        *_ALWAYS,
        *((409,) if takes or conflicts else ()),
        *((410,) if gone else ()),
        *((413, 415) if takes else ()),
        *((422,) if keyed else ()),
    ]
    return extend_schema(
        operation_id=operation,
        summary=summary,
        description=description,
        tags=[tag],
        request=takes,
        parameters=[*([query] if query else []), *([_KEY] if keyed else []), *headers],
        auth=[] if public else None,
        responses={
            status: OpenApiResponse(answer, summary),
            **{code: OpenApiResponse(shape, _said_of(shape)) for code, shape in (also or {}).items()},
            **{(code, MEDIA_TYPE): OpenApiResponse(Problem, _WHAT[code]) for code in sorted(refusals)},
        },
        examples=list(examples),
    )
