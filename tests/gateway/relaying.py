"""Clients that can be told and asked in the middle of a call, in words of their own choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2

from tests.gateway.harness import META, Client, Served, Stream

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
EVERYTHING = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
FORM = {"mode": "form", "message": "Who are you?", "requestedSchema": {"type": "object", "properties": {}}}
ACCEPT = {"action": "accept", "content": {"name": "olga"}}


def able(client: Client, capabilities: dict[str, Any] | None = None) -> Client:
    """The client in a session of the older era, with these capabilities."""
    declared = EVERYTHING if capabilities is None else capabilities
    params = {
        "protocolVersion": client.version,
        "capabilities": declared,
        "clientInfo": {"name": "old", "version": "0"},
    }
    response = client.post(client.message("initialize", params))
    client.session = response.headers["mcp-session-id"]
    return client


def params_of(tool: str, arguments: dict[str, Any], capabilities: dict[str, Any] | None = None, **more: Any) -> Any:
    """The params of a call in the newer era, by a client with these capabilities."""
    meta = META | {CAPABILITIES: EVERYTHING if capabilities is None else capabilities} | more.pop("meta", {})
    return {"name": tool, "arguments": arguments, "_meta": meta, **more}


def ask(client: Client, tool: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The whole answer to a call in the newer era."""
    message = client.message("tools/call", params_of(tool, arguments, **options))
    answer: dict[str, Any] = client.post(message).json()
    return answer


@contextlib.contextmanager
def streaming(client: Client, method: str, params: dict[str, Any]) -> Iterator[Stream]:
    """A request whose answer is read as it comes."""
    message = client.message(method, params)
    with httpx2.Client(timeout=20, trust_env=False) as http:
        request = http.build_request("POST", client.endpoint, json=message, headers=client.headers(message))
        response = http.send(request, stream=True)
        stream = Stream(response)
        try:
            yield stream
        finally:
            stream.hang_up()


def answered(client: Client, name: Any, **said: Any) -> int:
    """The status that an answer to a question of the server gets: `result` or `error`."""
    return client.post({"jsonrpc": "2.0", "id": name, **said}).status_code


def nothing_is_left(*served: Served) -> bool:
    """Whether no call, question or parked call is still held anywhere."""
    held = 0
    for gateway in (one.gateway for one in served):
        held += sum(slot.connection.pending for slot in list(gateway.pool._slots.values()) if slot.connection)
        held += len(gateway.in_flight) + len(gateway.parked) + len(gateway.questions) + len(gateway.calls)
        held += len(gateway.parked.ending)
    return held == 0
