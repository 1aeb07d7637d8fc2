"""A server with everything that the conformance suite looks for, made with the official SDK.

python -m tests.conformance.server http PORT
python -m tests.conformance.server stdio
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import warnings
from collections import deque
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.session import ServerSession
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

from tests.conformance import asking
from tests.conformance.fixtures import PIXEL, Answer, Context, embedded, settled, strings, text, tools

NAME = "conformance-fixture"
TEMPLATE = re.compile(r"test://template/([^/]+)/data")
RESOURCES = {
    "test://static-text": types.Resource(uri="test://static-text", name="static-text", mime_type="text/plain"),
    "test://static-binary": types.Resource(uri="test://static-binary", name="static-binary", mime_type="image/png"),
    "test://watched-resource": types.Resource(uri="test://watched-resource", name="watched", mime_type="text/plain"),
}
PROMPTS = {
    name: types.Prompt(
        name=name,
        description=f"For the suite: {name}",
        arguments=[types.PromptArgument(name=argument, required=True) for argument in arguments],
    )
    for name, arguments in {
        "test_simple_prompt": (),
        "test_prompt_with_arguments": ("arg1", "arg2"),
        "test_prompt_with_embedded_resource": ("resourceUri",),
        "test_prompt_with_image": (),
        "test_input_required_result_prompt": (),
    }.items()
}
DYNAMIC = "test_dynamic_prompt"
bus = InMemorySubscriptionBus()
# Of connections that were opened by a handshake; they are told of changes without asking.
opened: deque[ServerSession] = deque(maxlen=100)


async def list_tools(ctx: Context, params: object) -> types.ListToolsResult:
    return types.ListToolsResult(tools=tools.listed())


async def list_resources(ctx: Context, params: object) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=list(RESOURCES.values()))


async def list_templates(ctx: Context, params: object) -> types.ListResourceTemplatesResult:
    one = types.ResourceTemplate(
        uri_template="test://template/{id}/data", name="template", mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[one])


async def read(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri, found = str(params.uri), TEMPLATE.fullmatch(str(params.uri))
    if uri == "test://static-binary":
        return types.ReadResourceResult(
            contents=[types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PIXEL)]
        )
    if found:
        words = json.dumps({"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"})
        kind = "application/json"
    elif uri in RESOURCES:
        words, kind = "This is the content of the static text resource.", "text/plain"
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=kind, text=words)])


async def list_prompts(ctx: Context, params: object) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[PROMPTS[name] for name in sorted(PROMPTS)])


async def get_prompt(ctx: Context, params: types.GetPromptRequestParams) -> Any:
    return await settled(ctx, params, _prompt)


async def _prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given, said = params.arguments or {}, list[types.ContentBlock]()
    match params.name:
        case "test_simple_prompt":
            said = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            said = [text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")]
        case "test_prompt_with_embedded_resource":
            said = [embedded(str(given.get("resourceUri")), "Embedded resource content for testing.")]
            said.append(text("Please process the embedded resource above."))
        case "test_prompt_with_image":
            said = [types.ImageContent(type="image", data=PIXEL, mime_type="image/png")]
            said.append(text("Please analyze the image above."))
        case "test_input_required_result_prompt":
            answer = (params.input_responses or {}).get("user_context")
            if answer is None:
                return asking.asks(user_context=asking.ask("What context should it use?", strings("context")))
            said = [text(f"Use the following context: {asking.said(answer, 'context')}")]
        case name if name in PROMPTS:
            said = [text("dynamic")]
        case _:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=one) for one in said])


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def accept(ctx: Context, params: object) -> types.EmptyResult:
    """For logging/setLevel and legacy subscriptions: nothing here depends on them."""
    return types.EmptyResult()


async def remember(ctx: Context, params: object) -> None:
    opened.append(ctx.session)


async def _tell(event: ToolsListChanged | PromptsListChanged) -> None:
    await bus.publish(event)
    for session in list(opened):
        send = (
            session.send_tool_list_changed if isinstance(event, ToolsListChanged) else session.send_prompt_list_changed
        )
        try:
            await send()
        except Exception:  # noqa: BLE001 - of a connection that is gone, whatever it raises
            opened.remove(session)


async def _dynamic(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return "dynamic"


@tools.tool("test_trigger_tool_change", "A tool comes, or goes again")
async def _change_tools(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if tools.all.pop("test_dynamic_tool", None) is None:
        tools.tool("test_dynamic_tool", "Comes and goes")(_dynamic)
    await _tell(ToolsListChanged())
    return "tool list changed"


@tools.tool("test_trigger_prompt_change", "A prompt comes, or goes again")
async def _change_prompts(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if PROMPTS.pop(DYNAMIC, None) is None:
        PROMPTS[DYNAMIC] = types.Prompt(name=DYNAMIC, description="Comes and goes")
    await _tell(PromptsListChanged())
    return "prompt list changed"


class Everything(Server[Any]):
    def create_initialization_options(self, *args: Any, **options: Any) -> InitializationOptions:
        """In the older revisions too it says that its lists change."""
        changes = NotificationOptions(prompts_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, **options)


def build() -> Everything:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logging/setLevel is of the older revisions
        server = Everything(
            NAME,
            version="1.0.0",
            instructions="Everything that the conformance suite looks for.",
            get_tool_input_schema=tools.schema,
            on_list_tools=list_tools,
            on_call_tool=tools.call,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read,
            on_subscribe_resource=accept,
            on_unsubscribe_resource=accept,
            on_subscriptions_listen=ListenHandler(bus),
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
            on_completion=complete,
            on_set_logging_level=accept,
        )
    server.add_notification_handler("notifications/initialized", types.NotificationParams, remember)
    keys = RequestStateSecurity(keys=[b"a key of the fixture, which is the same after each start"])
    server.middleware.append(RequestStateBoundary(keys, default_audience=NAME))
    return server


async def on_stdio() -> None:
    server = build()
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def main(transport: str, port: str = "0") -> None:
    warnings.simplefilter("ignore")
    if transport == "stdio":
        asyncio.run(on_stdio())
    else:
        app = build().streamable_http_app(host="127.0.0.1")
        uvicorn.run(app, host="127.0.0.1", port=int(port), http="h11", log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
