"""A server made with the official Python SDK, over streamable HTTP, on a port of its own.

    python sdk_server.py [--json]

Prints the port. The SDK serves both eras at one URL.
"""

import asyncio
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sdk", version="1", instructions="be kind")


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers"""
    return a + b


@server.tool()
async def whoami(ctx: Context) -> str:
    """Return the Authorization header that arrived"""
    return str(ctx.headers.get("authorization")) if ctx.headers else ""


@server.tool()
async def slow(ctx: Context) -> str:
    """Report progress twice, then answer"""
    for step in (1, 2):
        await ctx.report_progress(step, 2)
    return "done"


@server.tool()
async def fail() -> str:
    """Always fail"""
    raise ValueError("it went wrong")


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = server.streamable_http_app(json_response="--json" in sys.argv)
    await uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).serve(sockets=[listener])


asyncio.run(main())
