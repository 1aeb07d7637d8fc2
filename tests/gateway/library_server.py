"""A server made with the official Python SDK, in both eras: notes to read and watch, prompts, completions.

python library_server.py stdio|PORT [RECORD]

Its tool git_log does what it is told: {"touch": uri} a note was changed, {"add": "prompts" | "resources"} one more.
RECORD gets a line for each request that is about a note or a prompt, but not those that list them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import mcp_types as t
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated

PAGE = 2
notes = {f"memo://{name}": f"About {name}" for name in ("apples", "boats", "cats", "salaries")}
prompts = ["greet", "insult"]
bus = InMemorySubscriptionBus()
sessions: dict[str, set[Any]] = {}
listening: set[Any] = set()


def record(what: str, *said: Any) -> None:
    if len(sys.argv) > 2:
        with Path(sys.argv[2]).open("a") as file:
            file.write(json.dumps([what, *said]) + "\n")


async def list_tools(ctx: Any, params: Any) -> t.ListToolsResult:
    return t.ListToolsResult(tools=[t.Tool(name="git_log", input_schema={"type": "object"})])


async def call_tool(ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult:
    asked = params.arguments or {}
    if uri := asked.get("touch"):
        await bus.publish(ResourceUpdated(uri=uri))
        for session in sessions.get(uri, set()) | sessions.get(uri.rpartition("/")[0], set()):
            await session.send_resource_updated(uri)
    if asked.get("add") == "prompts":
        prompts.append(f"more-{len(prompts)}")
        await bus.publish(PromptsListChanged())
        for session in listening:
            await session.send_prompt_list_changed()
    if asked.get("add") == "resources":
        notes[f"memo://more-{len(notes)}"] = "more"
        await bus.publish(ResourcesListChanged())
        for session in listening:
            await session.send_resource_list_changed()
    return t.CallToolResult(content=[t.TextContent(text=json.dumps(asked))])


def page(names: list[str], params: Any) -> tuple[list[str], str | None]:
    start = int(params.cursor) if params is not None and params.cursor else 0
    after = str(start + PAGE) if start + PAGE < len(names) else None
    return names[start : start + PAGE], after


async def list_resources(ctx: Any, params: Any) -> t.ListResourcesResult:
    listening.add(ctx.session)
    uris, after = page(list(notes), params)
    found = [t.Resource(uri=uri, name=uri.removeprefix("memo://"), mime_type="text/plain") for uri in uris]
    return t.ListResourcesResult(resources=found, next_cursor=after)


async def list_templates(ctx: Any, params: Any) -> t.ListResourceTemplatesResult:
    names = {"memo://{name}": "note", "vault://{name}": "vault", "memo://salaries/{year}": "salary"}
    found = [t.ResourceTemplate(uri_template=uri, name=name) for uri, name in names.items()]
    return t.ListResourceTemplatesResult(resource_templates=found)


async def read_resource(ctx: Any, params: t.ReadResourceRequestParams) -> t.ReadResourceResult:
    uri = str(params.uri)
    record("read", uri)
    if uri not in notes:
        raise MCPError(t.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return t.ReadResourceResult(contents=[t.TextResourceContents(uri=uri, mime_type="text/plain", text=notes[uri])])


async def subscribe(ctx: Any, params: Any) -> t.EmptyResult:
    record("subscribe", str(params.uri))
    sessions.setdefault(str(params.uri), set()).add(ctx.session)
    return t.EmptyResult()


async def unsubscribe(ctx: Any, params: Any) -> t.EmptyResult:
    record("unsubscribe", str(params.uri))
    sessions.get(str(params.uri), set()).discard(ctx.session)
    return t.EmptyResult()


async def listen(ctx: Any, params: Any) -> t.SubscriptionsListenResult:
    wanted = list(params.notifications.resource_subscriptions or [])
    for uri in wanted:
        record("subscribe", str(uri))
    try:
        return await ListenHandler(bus)(ctx, params)
    finally:
        for uri in wanted:
            record("unsubscribe", str(uri))


async def list_prompts(ctx: Any, params: Any) -> t.ListPromptsResult:
    listening.add(ctx.session)
    names, after = page(prompts, params)
    arguments = [t.PromptArgument(name="who", required=True), t.PromptArgument(name="tone")]
    return t.ListPromptsResult(prompts=[t.Prompt(name=one, arguments=arguments) for one in names], next_cursor=after)


async def get_prompt(ctx: Any, params: t.GetPromptRequestParams) -> t.GetPromptResult:
    record("prompt", params.name, params.arguments)
    text = f"{params.name} {(params.arguments or {}).get('who')}"
    return t.GetPromptResult(messages=[t.PromptMessage(role="user", content=t.TextContent(text=text))])


async def complete(ctx: Any, params: t.CompleteRequestParams) -> t.CompleteResult:
    known = params.context.arguments if params.context else None
    record("complete", params.ref.model_dump(mode="json"), params.argument.value, known)
    values = [one for one in ("anna", "anton", "bert") if one.startswith(params.argument.value)]
    return t.CompleteResult(completion=t.Completion(values=values, total=len(values), has_more=False))


class Library(Server[Any]):
    """One that also tells clients of the older era that its lists change."""

    def create_initialization_options(self, *_: Any, **options: Any) -> Any:
        told = NotificationOptions(prompts_changed=True, resources_changed=True)
        return super().create_initialization_options(told, **options)


server = Library(
    "library", version="1",
    on_list_tools=list_tools, on_call_tool=call_tool,
    on_list_resources=list_resources, on_list_resource_templates=list_templates, on_read_resource=read_resource,
    on_subscribe_resource=subscribe, on_unsubscribe_resource=unsubscribe, on_subscriptions_listen=listen,
    on_list_prompts=list_prompts, on_get_prompt=get_prompt, on_completion=complete,
)  # fmt: skip


async def over_stdio() -> None:
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        asyncio.run(over_stdio())
    else:
        import uvicorn

        uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
