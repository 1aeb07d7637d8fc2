"""Reading one message, body and headers, against a slow and obvious model: 50,000 of them, a million nightly."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.gateway.wire import Headers, RpcError, read_message

pytestmark = pytest.mark.pure
EACH = 200
# 250 of them, and 5,000 with the nightly profile.
SEEDS = settings(max_examples=max(settings.default.max_examples, 250))
COUNTED = {"messages": 0, "taken": 0, "modern": 0, "agreed on a name": 0, "answers": 0}

MODERN, LEGACY = "2026-07-28", ("2025-11-25", "2025-06-18", "2025-03-26")
VERSION, CAPABILITIES, CLIENT = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientCapabilities", "clientInfo")
)
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
ROUTING = ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "authorization", "host", "origin")
METHODS = ("tools/call", "tools/call", "tools/call", "prompts/get", "resources/read", "tools/list", "ping", "initialize",
           "server/discover", "notifications/cancelled", "tools/call2", "Tools/call", "")  # fmt: skip
NAMES = (
    "git_log",
    "git_log ",
    " git_log",
    "git_Log",
    "é",
    "日本",
    "",
    "=?base64?YQ==?=",
    "=?base64??=",
    "a" * 200,
    "file:///a b",
    "\u212a",
)
JUNK: tuple[Any, ...] = (None, 0, 1, True, False, "", "2.0", "x", [], {}, ["2.0"], {"name": "git_log"}, 1.5, -3)
BROKEN = ("=?base64?YQ?=", "=?base64?!!!!?=", "=?base64?/w==?=", "=?base64?YQ===?=", "=?base64?Y Q==?=", "=?base64?YQ==", "=?BASE64?YQ==?=",
          "=?base64?=?=", "=?base64?====?=", "=?base64?YQ=a?=", "=?base64?_w==?=", "=?base64?w6k=?=")  # fmt: skip


def sentinel(name: str) -> str:
    return f"=?base64?{base64.b64encode(name.encode()).decode()}?="


def pair(random: Random) -> tuple[Any, list[tuple[str, str]]]:
    """A message with the headers that go with it, and then perhaps something else."""
    method, name, modern = random.choice(METHODS), random.choice(NAMES), random.random() < 0.6
    params: dict[str, Any] = {"arguments": {"path": "/a"}}
    headers = []
    version = MODERN if modern else random.choice(LEGACY)
    if modern:
        params["_meta"] = {VERSION: version, CAPABILITIES: {}, CLIENT: {"name": "fuzz", "version": "1"}}
    if modern or random.random() < 0.8:
        headers.append(("mcp-protocol-version", version))
    if modern or random.random() < 0.3:
        headers.append(("mcp-method", method))
    if method in NAMED:
        params[NAMED[method]] = name
        if modern or random.random() < 0.3:
            plain = name.isascii() and name == name.strip() and random.random() < 0.7 and not name.startswith("=?")
            headers.append(("mcp-name", name if plain else sentinel(name)))
    message: Any = {
        "jsonrpc": "2.0",
        "id": random.choice((1, 0, -5, "a", "", 2**53 - 1)),
        "method": method,
        "params": params,
    }
    if random.random() < 0.08:
        del message["method"], message["params"]
        message[random.choice(("result", "error"))] = {}
    elif method.startswith("notifications/") or random.random() < 0.05:
        del message["id"]
    if random.random() < 0.5:
        message = spoil(random, message)
    if random.random() < 0.5:
        headers = spoil_headers(random, headers)
    return message, headers


def spoil(random: Random, message: dict[str, Any]) -> Any:
    """One thing in it is another, missing, or there besides."""
    params = message.get("params", message)
    where = random.choice((message, message, params, params.get("_meta", message)))
    name = random.choice(
        [*where, "jsonrpc", "method", "params", "id", "result", "error", "name", "uri", "_meta", VERSION, CAPABILITIES]
    )
    if random.random() < 0.3:
        where.pop(name, None)
    else:
        versions = (MODERN, *LEGACY, "2024-11-05", "2027-01-01")
        where[name] = random.choice((*JUNK, *NAMES, *METHODS, *versions))
    return message


def spoil_headers(random: Random, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(headers)
    place = random.randrange(len(found)) if found else None
    match random.randint(0, 4):
        case 0 if place is not None:
            del found[place]
        case 1 if place is not None:
            found[place] = (found[place][0], random.choice((*NAMES, *METHODS, *BROKEN, MODERN, *LEGACY, "2027-01-01")))
        case 2 if place is not None:
            name, value = found[place]
            found[place] = (
                name,
                random.choice((value.upper(), f" {value}\t", sentinel(value), f"{value},{value}", f"{value}x")),
            )
        case 3:
            twice = random.choice((*ROUTING, "accept"))
            found += [(twice, value) for name, value in found if name == twice] or [(twice, "a"), (twice, "a")]
        case _:
            found.append((random.choice(("mcp-name", "mcp-method")), random.choice((*NAMES, *METHODS, *BROKEN))))
    return found


def meant(value: Any, headers: list[tuple[str, str]]) -> tuple[set[tuple[int, int]], bool]:
    """(what a refusal may say: status and code; whether the message is of the modern era)."""
    given = [name for name, _ in headers]
    if any(given.count(name) > 1 for name in ROUTING):
        return {(400, -32020)}, False
    named = {name: said.encode("utf-8").decode("latin-1").strip() for name, said in headers}
    version, faults = named.get("mcp-protocol-version"), set[int]()
    if "method" not in value and ("result" in value) != ("error" in value):
        return set() if is_answer(value, version or "2025-03-26") else {(400, -32600)}, False
    if not is_envelope(value):
        faults.add(-32600)
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str):
        return {(400, code) for code in faults | {-32600}}, False
    if not isinstance(params, dict) or not isinstance(params.get("_meta", {}), dict):
        return {(400, code) for code in faults | {-32602}}, False
    meta = params.get("_meta", {})
    modern = VERSION in meta or (version == MODERN and method != "initialize")
    if modern:
        faults |= against_modern(method, "id" in value, meta, named)
    elif method != "initialize" and (version or "2025-03-26") not in LEGACY:
        faults.add(-32022)
    if method in NAMED and ("mcp-name" in named or modern):
        faults |= against_name(named.get("mcp-name"), params.get(NAMED[method]), NAMED[method] in params)
    if not modern and named.get("mcp-method", method) != method:
        faults.add(-32020)
    return {(400, code) for code in faults}, modern


def is_envelope(value: dict[str, Any]) -> bool:
    named = type(value["id"]) in (str, int) if "id" in value else True
    return named and not set(value) - {"jsonrpc", "id", "method", "params"} and value.get("jsonrpc") == "2.0"


def is_answer(value: dict[str, Any], version: str) -> bool:
    shaped = value.get("jsonrpc") == "2.0" and not set(value) - {"jsonrpc", "id", "result", "error"}
    return shaped and type(value.get("id")) in (str, int) and version in LEGACY


def against_modern(method: str, is_request: bool, meta: dict[str, Any], named: dict[str, str]) -> set[int]:
    faults = set()
    if not isinstance(meta.get(VERSION), str) or not isinstance(meta.get(CAPABILITIES), dict):
        faults.add(-32602)
    if meta.get(VERSION) != named.get("mcp-protocol-version"):
        faults.add(-32020)
    if meta.get(VERSION) != MODERN:
        faults.add(-32022)
    if named.get("mcp-method") != method and (is_request or "mcp-method" in named):
        faults.add(-32020)
    return faults


def against_name(header: str | None, member: Any, given: bool) -> set[int]:
    """The header is the member, as it is or in base64, taken out of that once."""
    if header is None:
        return {-32020} if given else set()
    said: str | None = header
    if header.startswith("=?base64?") and header.endswith("?=") and len(header) >= len("=?base64??="):
        inside = header.removeprefix("=?base64?").removesuffix("?=")
        said = taken_out(inside)
    return set() if said is not None and said == member else {-32020}


def taken_out(text: str) -> str | None:
    """RFC 4648, section 4, by hand; None for what is not that, or is not UTF-8."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    filled = text.rstrip("=")
    if len(text) % 4 or len(text) - len(filled) > 2 or any(char not in alphabet for char in filled):
        return None
    bits = "".join(f"{alphabet.index(char):06b}" for char in filled)
    raw = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def check(random: Random) -> None:
    value, headers = pair(random)
    body, raw = json.dumps(value).encode(), [(name.encode(), said.encode()) for name, said in headers]
    codes, modern = meant(value, headers)
    COUNTED["messages"] += 1
    try:
        message = read_message(body, Headers.read(raw))
    except RpcError as refusal:
        assert (refusal.status, refusal.code) in codes, (body, headers, refusal.message)
        return
    assert not codes, (body, headers, codes)
    COUNTED["taken"] += 1
    COUNTED["modern"] += modern
    COUNTED["agreed on a name"] += "mcp-name" in dict(headers) and message.method in NAMED
    assert (message.id, type(message.id)) == (value.get("id"), type(value.get("id")))
    assert message.modern is modern
    if "method" not in value:
        COUNTED["answers"] += 1
        assert (message.method, message.params, message.answer) == ("", {}, value)
        return
    assert (message.method, message.params, message.answer) == (value["method"], value.get("params", {}), None)
    assert message.method == "initialize" or message.version in ({MODERN} if modern else LEGACY)


@SEEDS
@given(seed=st.integers(0, 2**64))
def test_a_message_is_read_as_the_model_reads_it(seed: int) -> None:
    random = Random(seed)
    for _ in range(EACH):
        check(random)


def test_the_messages_hold_every_kind_of_case() -> None:
    """Guards the above against messages of which none is taken."""
    before = dict(COUNTED)
    for seed in range(10):
        test_a_message_is_read_as_the_model_reads_it.hypothesis.inner_test(seed=seed)
    found = {kind: COUNTED[kind] - before[kind] for kind in COUNTED}
    assert found["messages"] == 10 * EACH
    assert found["messages"] * 0.2 < found["taken"] < found["messages"] * 0.8, found
    assert found["modern"] > 100, found
    assert found["agreed on a name"] > 100, found
    assert found["answers"] > 30, found
