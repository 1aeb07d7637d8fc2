"""The official MCP Python client against a running gateway, in either era."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

MODERN, LEGACY = "2026-07-28", "legacy"


@dataclass
class Agent:
    """A connected agent: calls, and how often it was told that the list changed."""

    client: Client
    changes: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def call(self, name: str, **arguments: Any) -> Any:
        return await self.client.call_tool(name, arguments)

    async def tools(self) -> dict[str, str]:
        """Descriptions by name."""
        return {tool.name: tool.description or "" for tool in (await self.client.list_tools()).tools}

    async def next_change(self) -> str:
        return await asyncio.wait_for(self.changes.get(), 30)


@contextlib.asynccontextmanager
async def connect(url: str, token: str, *, era: str, server: str = "git") -> AsyncIterator[Agent]:
    """An agent with an open stream of changes, at one server's endpoint."""
    changes: asyncio.Queue[str] = asyncio.Queue()

    async def on_message(message: Any) -> None:
        method = getattr(message, "method", "")
        if method.endswith("list_changed"):
            changes.put_nowait(method)

    headers = {"Authorization": f"Bearer {token}"}
    options: dict[str, Any] = {"message_handler": on_message} if era == LEGACY else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp/{server}", http_client=http), mode=era, **options) as client,
    ):
        agent = Agent(client, changes)
        if era == LEGACY:
            yield agent
            return
        async with client.listen(tools_list_changed=True) as subscription:

            async def follow() -> None:
                async for event in subscription:
                    changes.put_nowait(type(event).__name__)

            follower = asyncio.create_task(follow())
            yield agent
            follower.cancel()
