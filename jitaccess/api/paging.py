"""Cursors: opaque to clients, a direction and a key inside. They lead to neighbours of a row, not to a number."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from jitaccess.api.parsing import Input
from jitaccess.kernel.errors import Invalid
from jitaccess.store.paging import Part

MAX_SIZE = 100


class Paged(Input):
    """The parameters of every list."""

    cursor = serializers.CharField(
        required=False, max_length=40, help_text="From `next` or `previous` of an answer; means nothing else."
    )
    limit = serializers.IntegerField(default=50, min_value=1, max_value=MAX_SIZE, help_text="Rows in an answer.")


def place(asked: dict[str, Any]) -> dict[str, Any]:
    """`before`, `after` and `size`, as lists take them. Raises Invalid("page.cursor")."""
    found: dict[str, Any] = {"size": asked["limit"]}
    if text := asked.get("cursor"):
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 17 or raw[:1] not in {b"n", b"p"}:
            raise Invalid("page.cursor", "This cursor is not one of ours.")
        found["before" if raw[:1] == b"n" else "after"] = UUID(bytes=raw[1:])
    return found


def page(request: Request, part: Part[Any], items: Sequence[Any]) -> Response:
    """`items` with links to the parts around them, as references relative to this host."""

    def link(direction: bytes, key: UUID | None) -> str | None:
        if key is None:
            return None
        cursor = base64.b64encode(direction + key.bytes, altchars=b"-_").decode()
        return f"{request.path}?{urlencode({**request.query_params.dict(), 'cursor': cursor})}"

    return Response({"items": items, "next": link(b"n", part.older), "previous": link(b"p", part.newer)})
