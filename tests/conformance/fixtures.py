"""The tools that the conformance suite looks for by name: content of every kind, progress, log, errors, schemas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

Context = ServerRequestContext[Any, Any]
Answer = types.CallToolResult | types.InputRequiredResult | list[types.ContentBlock] | str
Handler = Callable[[Context, types.CallToolRequestParams], Awaitable[Answer]]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SILENCE = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
MISSING_CAPABILITY = -32021
RESULTS: dict[str, Any] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}

# What the suite wants to find unharmed in the list (SEP-1613, SEP-2106).
WHOLE_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@dataclass
class Tools:
    """Tools by name, in the order of their names; what changes the list says so to `changed`."""

    all: dict[str, tuple[types.Tool, Handler]] = field(default_factory=dict)

    def tool(self, name: str, description: str, schema: dict[str, Any] | None = None) -> Callable[[Handler], Handler]:
        schema = schema or {"type": "object", "properties": {}}

        def add(handler: Handler) -> Handler:
            self.all[name] = (types.Tool(name=name, description=description, input_schema=schema), handler)
            return handler

        return add

    def listed(self) -> list[types.Tool]:
        return [self.all[name][0] for name in sorted(self.all)]

    def schema(self, name: str) -> dict[str, Any] | None:
        return self.all[name][0].input_schema if name in self.all else None

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        if params.name not in self.all:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        answer = await settled(ctx, params, self.all[params.name][1])
        if isinstance(answer, str):
            answer = [text(answer)]
        return types.CallToolResult(content=answer) if isinstance(answer, list) else answer


async def settled(ctx: Context, params: Any, handler: Callable[[Context, Any], Awaitable[Any]]) -> Any:
    """What comes of a call that may take rounds. A client of an older revision knows none, and is asked by requests."""
    answer = await handler(ctx, params)
    while isinstance(answer, types.InputRequiredResult) and ctx.session.can_send_request:
        requests = answer.input_requests or {}
        said = await asyncio.gather(*(_ask(ctx, request) for request in requests.values()))
        given = {"input_responses": dict(zip(requests, said, strict=True)), "request_state": answer.request_state}
        params = params.model_copy(update=given)
        answer = await handler(ctx, params)
    return answer


async def _ask(ctx: Context, request: types.InputRequest) -> Any:
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    return await ctx.session.send_request(request, RESULTS[request.method], metadata=metadata)


def text(words: str) -> types.TextContent:
    return types.TextContent(type="text", text=words)


def strings(*names: str) -> dict[str, Any]:
    """A schema of required texts."""
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


tools = Tools()


@tools.tool("test_simple_text", "Answers with a text")
async def _text(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return "This is a simple text response for testing."


@tools.tool("test_image_content", "Answers with an image")
async def _image(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return [types.ImageContent(type="image", data=PIXEL, mime_type="image/png")]


@tools.tool("test_audio_content", "Answers with a sound")
async def _audio(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return [types.AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")]


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return types.EmbeddedResource(type="resource", resource=contents)


@tools.tool("test_embedded_resource", "Answers with a resource")
async def _embedded(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


@tools.tool("test_multiple_content_types", "Answers with a text, an image and a resource")
async def _mixed(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return [
        text("Multiple content types test:"),
        types.ImageContent(type="image", data=PIXEL, mime_type="image/png"),
        embedded("test://mixed-content-resource", '{"test": "data", "value": 123}', "application/json"),
    ]


async def log(ctx: Context, words: str) -> None:
    await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)


@tools.tool("test_tool_with_logging", "Logs while it works")
async def _logging(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(ctx, words)
        await asyncio.sleep(0.05)
    return "Tool with logging executed successfully"


tools.tool("test_logging_tool", "Logs while it works")(_logging)


@tools.tool("test_tool_with_progress", "Tells its progress while it works")
async def _progress(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return str((ctx.meta or {}).get("progress_token", 0))


@tools.tool("test_error_handling", "Fails")
async def _error(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return types.CallToolResult(content=[text("This tool intentionally returns an error for testing")], is_error=True)


@tools.tool("test_reconnection", "Closes its stream in the middle of the call (SEP-1699)")
async def _reconnection(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    await log(ctx, "Before disconnect")
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    await log(ctx, "After reconnect")
    return "Reconnection test completed"


REGION = {
    "type": "object",
    "properties": {"region": {"type": "string", "description": "Goes into a header", "x-mcp-header": "Region"}},
}


@tools.tool("test_x_mcp_header", "Takes an argument that clients mirror into a header (SEP-2243)", REGION)
async def _mirrored(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return f"region={(params.arguments or {}).get('region', '<none>')}"


@tools.tool("test_missing_capability", "Needs the client's capability to sample")
async def _missing(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        needed = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_CAPABILITY, "This tool requires the client's capability to sample", needed)
    return "The client declared that it can sample."


@tools.tool("json_schema_2020_12_tool", "Has a schema with everything in it", WHOLE_SCHEMA)
async def _schema(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return "json_schema_2020_12_tool"
