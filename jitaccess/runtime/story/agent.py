"""The agent of the story: the official Python client of MCP, and its open stream of changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

_REVISION = "2026-07-28"
_LOCKED = "[LOCKED: needs approval]"


class Agent:
    """Calls tools, and knows when it was told that the list of tools changed."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changes: asyncio.Queue[str] = asyncio.Queue()

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        return await self._client.call_tool(name, arguments)

    async def tools(self) -> dict[str, bool]:
        """Names of the tools it sees now, and whether each is locked."""
        listed = await self._client.list_tools()
        return {tool.name: (tool.description or "").startswith(_LOCKED) for tool in listed.tools}

    async def next_change(self, *, within: float) -> str:
        """The next notice on the open stream. Raises TimeoutError after `within` seconds."""
        return await asyncio.wait_for(self._changes.get(), within)

    async def follow(self, subscription: Any) -> None:
        async for event in subscription:
            self._changes.put_nowait(type(event).__name__)


def text_of(result: Any) -> str:
    """What the model reads of a result."""
    return "\n".join(part.text for part in result.content if part.type == "text")


def words(name: str, arguments: dict[str, Any]) -> str:
    return f"{name} {json.dumps(arguments, ensure_ascii=False)}"


@contextlib.asynccontextmanager
async def connect(url: str, token: str) -> AsyncIterator[Agent]:
    """An agent connected to the MCP server at `url`, listening for changes."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=_REVISION) as client,
        client.listen(tools_list_changed=True) as subscription,
    ):
        agent = Agent(client)
        follower = asyncio.create_task(agent.follow(subscription))
        try:
            yield agent
        finally:
            follower.cancel()
