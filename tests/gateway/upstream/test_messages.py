"""A server's list of tools, read page by page within bounds."""

from __future__ import annotations

import asyncio

import pytest

from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.messages import MAX_LIST_BYTES, list_tools
from jitaccess.kernel.strictjson import JsonObject

pytestmark = pytest.mark.pure


def test_a_list_of_tools_that_grows_from_page_to_page_is_given_up() -> None:
    asked: list[JsonObject] = []

    async def ask(_: str, params: JsonObject, *, timeout: float) -> JsonObject:  # noqa: ASYNC109 - as connections do
        assert timeout > 0
        asked.append(params)
        tools: list[JsonObject] = [{"name": f"tool_{len(asked)}", "description": "x" * (MAX_LIST_BYTES // 3)}]
        return {"tools": [*tools], "nextCursor": str(len(asked))}

    with pytest.raises(UpstreamError, match="larger than 8388608 bytes"):
        asyncio.run(list_tools("files", ask, 30))
    assert len(asked) == 3, "nothing is asked for that could not be kept"
