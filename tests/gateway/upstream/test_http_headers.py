from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.gateway.upstream.headers import encode, mirror_of, mirrored, standard
from jitaccess.gateway.wire import decode_header

from .conftest import Run
from .web_server import MODERN, Seen, WebServer, call, connected


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def annotated(name: Any, kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("two words", "two words"),
    ],
)
def test_values_are_encoded_as_in_the_specification(value: str, header: str) -> None:
    assert encode(value) == header


@given(st.text())
def test_every_encoded_value_is_a_header_value_and_decodes_to_itself(value: str) -> None:
    header = encode(value)
    assert header.isascii()
    assert header == header.strip()
    assert header.replace("\t", "").isprintable()
    assert decode_header(header) == value


def test_the_name_in_the_header_is_the_one_in_the_body() -> None:
    assert standard("tools/call", {"name": "a b\n"})["Mcp-Name"] == "=?base64?YSBiCg==?="
    assert standard("resources/read", {"uri": "file:///x", "name": "y"})["Mcp-Name"] == "file:///x"
    assert "Mcp-Name" not in standard("tools/list", {"name": "x"})


@pytest.mark.parametrize(
    "broken",
    [
        schema(a=annotated("")),
        schema(a=annotated(None)),
        schema(a=annotated("a b")),
        schema(a=annotated("a\r\nX-Evil: 1")),
        schema(a=annotated("é")),
        schema(a=annotated("A"), b=annotated("a")),
        schema(a=annotated("A", "number")),
        schema(a=annotated("A", "object")),
        schema(a=annotated("A", ["string", "null"])),
        schema(a={"type": "array", "items": annotated("A")}),
        schema(a={"anyOf": [annotated("A")]}),
        {"type": "object", "$defs": {"x": annotated("A")}, "properties": {"a": {"$ref": "#/$defs/x"}}},
        {"type": "object", "if": schema(a=annotated("A"))},
        {"type": "object", "x-mcp-header": "A"},
    ],
)
def test_annotations_that_the_specification_forbids_make_a_tool_invalid(broken: Any) -> None:
    with pytest.raises(ValueError, match="x-mcp-header"):
        mirror_of(broken)


def test_what_only_looks_like_an_annotation_is_none() -> None:
    assert mirror_of(schema(**{"x-mcp-header": {"type": "string"}})) == {}
    assert mirror_of(schema(a={"type": "object", "default": {"x-mcp-header": "A"}})) == {}
    assert mirror_of(True) == mirror_of(None) == mirror_of({"properties": []}) == {}


def test_arguments_are_mirrored_by_their_exact_path_and_type() -> None:
    mirror = mirror_of(
        schema(a=annotated("A"), b=annotated("B", "integer"), c=annotated("C", "boolean"), d=schema(e=annotated("E")))
    )
    whole = {"a": "x\ny", "b": -7, "c": True, "d": {"e": "z"}, "e": "not this one"}
    assert mirrored(mirror, whole) == {
        "Mcp-Param-A": "=?base64?eAp5?=", "Mcp-Param-B": "-7", "Mcp-Param-C": "true", "Mcp-Param-E": "z",
    }  # fmt: skip
    assert mirrored(mirror, {"a": None, "b": 1.5, "c": [], "d": "e"}) == {}
    assert mirrored(mirror, None) == {}


TOOLS: list[dict[str, Any]] = [
    {"name": "query", "inputSchema": schema(region=annotated("Region"), sql={"type": "string"})},
    {"name": "bad", "inputSchema": schema(a={"items": annotated("A")})},
    {"name": "plain", "inputSchema": schema()},
]


def test_a_modern_call_carries_the_headers_its_tool_asks_for(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        server = WebServer(tools=TOOLS)
        async with connected(server) as connection:
            for _ in range(2):
                await call(connection, "query", region="us-west1", sql="SELECT 1")
            await call(connection, "plain", region="x")
            with caplog.at_level(logging.WARNING):
                assert [tool["name"] for tool in await connection.list_tools()] == ["query", "plain"]
            assert 'the tool "bad" is left out' in caplog.text
        assert server.methods() == [
            "server/discover",
            "tools/list",
            "tools/call",
            "tools/call",
            "tools/call",
            "tools/list",
        ]
        first, second, third = (seen.request.headers for seen in server.calls())
        assert first["Mcp-Param-Region"] == second["Mcp-Param-Region"] == "us-west1"
        assert "Mcp-Param-Region" not in third
        assert {
            "Mcp-Name": "query",
            "Mcp-Method": "tools/call",
            "MCP-Protocol-Version": MODERN,
        }.items() <= first.items()

    run(work())


def test_after_a_header_mismatch_the_list_is_read_again_and_the_call_repeated_once(run: Run) -> None:
    async def work() -> None:
        server = WebServer(tools=[TOOLS[2]])

        async def strict(seen: Seen) -> Any:
            if seen.request.headers.get("Mcp-Param-Region") != "x":
                server.tools = [TOOLS[0]]  # changed since it was listed
                return seen.error(-32020, "Header mismatch", status=400)
            return seen.json()

        server.on["tools/call"] = strict
        async with connected(server) as connection:
            assert (await call(connection, "query", region="x"))["content"] == []
            assert len(server.calls()) == 2

    run(work())


def test_a_server_whose_list_fails_can_still_be_called(run: Run) -> None:
    async def work() -> None:
        server = WebServer()

        async def broken(seen: Seen) -> Any:
            return seen.error(-32603, "no list today")

        server.on["tools/list"] = broken
        async with connected(server) as connection:
            for _ in range(2):
                await call(connection, "t")
        assert server.methods().count("tools/list") == 1

    run(work())
