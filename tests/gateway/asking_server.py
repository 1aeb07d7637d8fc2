"""A server made with the official Python SDK that tells and asks its client things in the middle of a call.

    python asking_server.py http|stdio

Over HTTP it prints its port and serves both eras at one URL.
"""

import asyncio
import socket
import sys
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel

server = MCPServer("asking", version="1", request_state_security=None)
stopped: list[str] = []


class Person(BaseModel):
    name: str


def person(do: str) -> Elicit[Person] | Person:
    return Elicit("Who are you?", Person) if do == "elicit" else Person(name="nobody")


def sampled(do: str) -> Sample | Any:
    message = SamplingMessage(role="user", content=TextContent(type="text", text="Say something"))
    return Sample([message], max_tokens=10) if do == "sample" else None


def rooted(do: str) -> ListRoots | Any:
    return ListRoots() if do == "roots" else None


@server.tool()
async def git_log(
    ctx: Context,
    do: str,
    who: Annotated[Person, Resolve(person)],
    said: Annotated[Any, Resolve(sampled)],
    roots: Annotated[Any, Resolve(rooted)],
) -> str:
    """Do what is asked for, and say what came of it"""
    if do == "tell":
        for level in ("debug", "warning"):
            await ctx.log(level, f"a {level}", logger_name="bell")
        for step in (1, 2):
            await ctx.report_progress(step, 2, f"step {step}")
    if do == "wait":
        try:
            await ctx.report_progress(1, 2)
            await asyncio.sleep(30)
        except BaseException:
            stopped.append(do)
            raise
    if do == "stopped":
        return ",".join(stopped)
    if do == "sample":
        return f"sampled {said.content.text}"
    if do == "roots":
        return f"roots {roots.roots[0].uri}"
    return f"done for {who.name}"


@server.tool()
async def git_commit(do: str, who: Annotated[Person, Resolve(person)]) -> str:
    """As git_log, for whom it is granted"""
    return f"committed by {who.name}"


async def over_http() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error", lifespan="on")
    await uvicorn.Server(config).serve(sockets=[listener])


if sys.argv[1] == "http":
    asyncio.run(over_http())
else:
    server.run("stdio")
