"""What comes in, read strictly: one JSON object without surprises, and nothing that is not asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any, cast
from uuid import UUID

from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from jitaccess.api.problems import BadQuery, TooLarge
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject

MAX_BODY = 128 * 1024
MAX_DEPTH = 32


class StrictJson(BaseParser):
    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,  # noqa: ARG002 - the framework's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002 - as above
    ) -> JsonObject:
        body = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise TooLarge(f"The body is larger than {MAX_BODY} bytes.")
        return strictjson.decode(body, max_depth=MAX_DEPTH)


class Input(serializers.Serializer[Any]):
    """A JSON object of which every member is known."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError(
                {name: serializers.ErrorDetail("There is no such member.", code="unknown") for name in unknown}
            )
        return super().to_internal_value(data)


class Nothing(Input):
    """An empty object, or no body at all."""


class Text(serializers.CharField):
    """A string, not what could be made one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **options})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """An integer, not a string, a boolean or 1.0."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class Moment(serializers.DateTimeField):
    """A moment with its offset (RFC 3339): nobody has to guess whose noon is meant."""

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str) or not re.search(r"(?:[Zz]|[+-]\d\d:\d\d)\Z", value):
            self.fail("invalid", format="2026-01-31T09:00:00Z")
        return super().to_internal_value(value)


class Id(serializers.UUIDField):
    """A UUID in a string, not what could be made one."""

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=str(data)[:40])
        return super().to_internal_value(data)


class Switch(serializers.BooleanField):
    """true or false."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


def body(request: Request, kind: type[Input]) -> dict[str, Any]:
    """The members of the body. Raises ValidationError, or Invalid when it is no JSON object."""
    given = kind(data=request.data)
    given.is_valid(raise_exception=True)
    return cast("dict[str, Any]", given.validated_data)


def query(request: Request, kind: type[Input]) -> dict[str, Any]:
    """The parameters of the URL. Raises BadQuery, also for unknown ones and for one that stands there twice."""
    values = dict(request.query_params.lists())
    twice = {name: ["This parameter stands there more than once."] for name in values if len(values[name]) > 1}
    if twice:
        raise BadQuery(twice)
    given = kind(data={name: value[0] for name, value in values.items()})
    if not given.is_valid():
        raise BadQuery(cast("Any", given.errors))
    return cast("dict[str, Any]", given.validated_data)
