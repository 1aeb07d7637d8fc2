"""What may be in a body: one strict JSON-RPC request. Everything else gets the protocol's own error, and goes nowhere."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.cast import Cast
from tests.gateway.harness import META, Client, Served, eventually, ledger, settled, told

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"_meta": META, "name": "git_log", "arguments": {}},
}
GOOD = json.dumps(CALL)
PARSE, REQUEST, PARAMS = -32700, -32600, -32602


def with_arguments(text: str) -> str:
    return GOOD.replace('"arguments": {}', f'"arguments": {text}')


def changed(**members: Any) -> str:
    return json.dumps({name: value for name, value in (CALL | members).items() if value is not ...})


BAD = {
    "empty": (b"", PARSE),
    "not JSON": (b"{", PARSE),
    "a batch": (f"[{GOOD}]", REQUEST),
    "an empty batch": ("[]", REQUEST),
    "a text": ('"tools/call"', REQUEST),
    "a number": ("1", REQUEST),
    "null": ("null", REQUEST),
    "two objects": (GOOD + GOOD, PARSE),
    "a duplicate method": (GOOD.replace('"id": 1', '"id": 1, "method": "tools/list"'), PARSE),
    "a duplicate name": (GOOD.replace('"name": "git_log"', '"name": "git_log", "name": "git_commit"'), PARSE),
    "an escaped duplicate": (GOOD.replace('"name": "git_log"', '"name": "git_log", "n\\u0061me": "git_commit"'), PARSE),
    "a duplicate deep inside": (with_arguments('{"a": [{"b": 1, "b": 2}]}'), PARSE),
    "NaN": (with_arguments('{"a": NaN}'), PARSE),
    "infinity": (with_arguments('{"a": -Infinity}'), PARSE),
    "an overflowing number": (with_arguments('{"a": 1e400}'), PARSE),
    "an integer that doubles cannot hold": (with_arguments('{"a": 9007199254740993}'), PARSE),
    "an id that doubles cannot hold": (GOOD.replace('"id": 1', '"id": 9007199254740993'), PARSE),
    "an integer of many digits": (with_arguments(f'{{"a": {"9" * 10_000}}}'), PARSE),
    "65 levels": (with_arguments('{"a": ' + "[" * 62 + "]" * 62 + "}"), PARSE),
    "ten thousand levels": (with_arguments("[" * 10_000), PARSE),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), PARSE),
    "UTF-16": (GOOD.encode("utf-16"), PARSE),
    "UTF-16 without mark": (GOOD.encode("utf-16-le"), PARSE),
    "Latin-1": (with_arguments('{"a": "é"}').encode("latin-1"), PARSE),
    "a lone surrogate": (with_arguments('{"a": "\\ud800"}'), PARSE),
    "a lone surrogate in a name": (with_arguments('{"\\udfff": 1}'), PARSE),
    "NUL in a name": (with_arguments('{"a\\u0000b": 1}'), PARSE),
    "a raw NUL": (with_arguments('{"a": "\0"}'), PARSE),
    "a raw line break in a text": (with_arguments('{"a": "\n"}'), PARSE),
    "a comment": (GOOD + "// yes", PARSE),
    "no version": (changed(jsonrpc=...), REQUEST),
    "another version": (changed(jsonrpc="1.0"), REQUEST),
    "a number as version": (changed(jsonrpc=2.0), REQUEST),
    "an unknown member": (changed(extra=1), REQUEST),
    "another case": (GOOD.replace('"method"', '"Method"'), REQUEST),
    "both cases": (GOOD.replace('"id": 1', '"id": 1, "Method": "tools/list"'), REQUEST),
    "id null": (changed(id=None), REQUEST),
    "id true": (changed(id=True), REQUEST),
    "id as a fraction": (changed(id=1.5), REQUEST),
    "id as a float": (GOOD.replace('"id": 1', '"id": 1.0'), REQUEST),
    "id as an object": (changed(id={}), REQUEST),
    "a result": ('{"jsonrpc": "2.0", "id": 1, "result": {}}', REQUEST),
    "an error": ('{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": ""}}', REQUEST),
    "a call that is also a result": (changed(result={}), REQUEST),
    "no method": (changed(method=...), REQUEST),
    "a number as method": (changed(method=1), REQUEST),
    "params as a list": (changed(params=[]), PARAMS),
    "params null": (changed(params=None), PARAMS),
    "_meta as a text": (changed(params={"_meta": "x"}), PARAMS),
    "no _meta": (changed(params={"name": "git_log", "arguments": {}}), PARAMS),
    "no capabilities": (
        changed(params={"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}, "name": "git_log"}),
        PARAMS,
    ),
    "arguments as a list": (changed(params={"_meta": META, "name": "git_log", "arguments": []}), PARAMS),
    "arguments null": (changed(params={"_meta": META, "name": "git_log", "arguments": None}), PARAMS),
    "answers that are no object": (
        changed(params={"_meta": META, "name": "git_log", "arguments": {}, "inputResponses": []}),
        PARAMS,
    ),
}


def test_whatever_is_not_one_strict_request_is_refused_and_goes_nowhere(agent: Client, sent: Sent) -> None:
    for name, (body, code) in BAD.items():
        raw = body if isinstance(body, bytes) else body.encode()
        response = agent.post(raw, mcp_protocol_version="2026-07-28", mcp_method="tools/call", mcp_name="git_log")
        assert response.status_code == 400, f"{name}: {response.status_code} {response.text}"
        answer = response.json()
        assert answer["error"]["code"] == code, f"{name}: {answer}"
        assert answer["jsonrpc"] == "2.0"
        assert answer["id"] in (None, 1, 1.0), name
    assert sent() == []
    assert told() == []
    assert agent.call("git_log", a=[[["deep but fine"]]])["content"]


def test_a_request_is_answered_with_its_own_id_even_when_it_is_refused(agent: Client) -> None:
    for request_id in (7, "seven", "", -1, 2**53 - 1, "ü\u2028"):
        for method, status in (("tools/call", 400), ("nothing", 404)):
            response = agent.post(agent.message(method, {}, id=request_id))
            assert (response.status_code, response.json()["id"]) == (status, request_id)


def test_case_variants_and_unknown_members_of_params_are_not_forwarded(agent: Client, sent: Sent) -> None:
    params = {"name": "git_log", "arguments": {"a": 1, "A": 2}, "Name": "git_commit", "Arguments": {"b": 1}}
    answer = agent.ask("tools/call", params | {"task": {"ttl": 1}})
    assert "result" in answer
    (received,) = sent()
    assert {name: received[name] for name in received if name != "_meta"} == {
        "name": "git_log", "arguments": {"a": 1, "A": 2},
    }  # fmt: skip


def test_a_body_over_the_cap_is_refused_however_its_length_is_told(gateway: Served, agent: Client, sent: Sent) -> None:
    big = with_arguments(json.dumps({"a": "x" * (4 << 20)})).encode()
    assert agent.post(big, mcp_method="tools/call", mcp_name="git_log").status_code == 413

    def pieces() -> Any:
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    # The server may hang up while we are still talking; what it must not do is listen to the end.
    with contextlib.suppress(httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
        assert agent.http.post(agent.endpoint, content=pieces(), headers=agent.headers(CALL)).status_code == 413
    assert sent() == []
    assert told() == []


@pytest.mark.parametrize("length", [(2 << 20) + 1, 10**12, 10**18])
def test_a_length_over_the_cap_is_refused_before_the_body_comes(gateway: Served, agent: Client, length: int) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in agent.headers(CALL).items())
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(f"POST /mcp/git HTTP/1.1\r\nhost: {host}\r\n{head}content-length: {length}\r\n\r\n".encode())
        plain.settimeout(3)  # the deadline for a body is far later
        answer = plain.recv(65536)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == REQUEST


def test_a_length_that_lies_cannot_smuggle_a_second_request(gateway: Served, agent: Client, sent: Sent) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in agent.headers(CALL).items())

    def say(body: bytes, *lines: str) -> bytes:
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            extra = "".join(f"{line}\r\n" for line in lines)
            plain.sendall(f"POST /mcp/git HTTP/1.1\r\nhost: {host}\r\n{head}{extra}\r\n".encode() + body)
            plain.shutdown(socket.SHUT_WR)
            answer = b""
            while part := plain.recv(65536):
                answer += part
            return answer

    good = GOOD.encode()
    assert b" 200 " not in say(good, "content-length: 10").split(b"\r\n")[0]
    assert b" 200 " not in say(good, f"content-length: {len(good) + 50}")[:15]
    assert b" 200 " not in say(good, f"content-length: {len(good)}", "content-length: 3")[:15]
    assert (
        b" 200 " not in say(b"0\r\n\r\n" + good, f"content-length: {len(good) + 5}", "transfer-encoding: chunked")[:15]
    )
    assert b" 200 " not in say(good, "transfer-encoding: chunked")[:15]
    assert sent() == []


def test_only_plain_json_is_taken(agent: Client, sent: Sent) -> None:
    for kind in (
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json-rpc",
        "multipart/form-data",
    ):
        assert agent.post(CALL, content_type=kind).status_code == 415
    for encoding in ("gzip", "br", "deflate", "gzip, identity"):
        assert agent.post(CALL, content_encoding=encoding).status_code == 415
    assert sent() == []
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert agent.post(CALL, content_type=kind, content_encoding="identity").status_code == 200
    assert len(sent()) == 2


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "HEAD"])
def test_other_http_methods_are_not_allowed(agent: Client, method: str) -> None:
    response = agent.http.request(method, agent.endpoint, headers=agent.headers(CALL))
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST, DELETE"


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, len(GOOD)),
        st.sampled_from(["insert", "delete", "replace", "double"]),
        st.sampled_from(['"', "{", "}", "[", "]", ",", ":", "\\", "\\u0000", "null", "true", "1e999", "\x00", "é", "git_commit",
                         "git_log", "tools/call", "tools/list", '"name":"git_commit",', '"id":2,', "\ud800", " ", "-"]),
    ),
    max_size=4,
)  # fmt: skip
NAMES = st.sampled_from(
    ["git_log", "git_commit", "call_tool", "=?base64?Z2l0X2xvZw==?=", "=?base64?é?=", "", "é", "nothing"]
)
HEADERS = st.dictionaries(
    st.sampled_from(["mcp_name", "mcp_method", "mcp_protocol_version", "mcp_session_id", "origin", "content_type", "host",
                     "accept", "x_forwarded_host", "content_encoding"]),
    st.one_of(NAMES, st.none(), st.sampled_from(["tools/call", "tools/list", "2026-07-28", "2025-11-25", "1", "k1.AAAA",
              "application/json", "[::1", "127.0.0.1", "a@127.0.0.1", "null", "text/event-stream", "gzip"]),
              st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=8).map(str.strip)),
    max_size=3,
)  # fmt: skip


def test_no_mutation_of_bodies_and_headers_breaks_it_or_gets_past_it(agent: Client, sent: Sent) -> None:
    statuses: set[int] = set()

    @hypothesis_settings(max_examples=400, database=None, deadline=None)
    @given(MUTATIONS, HEADERS)
    def attack(mutations: list[tuple[int, str, str]], headers: dict[str, str | None]) -> None:
        text = GOOD
        for at, what, piece in mutations:
            rest = text[at:] if what == "insert" else text[at + len(piece) :]
            text = text[:at] + ("" if what == "delete" else piece) + rest if what != "double" else text[:at] + text
        proper: dict[str, str | None] = {
            "mcp_protocol_version": "2026-07-28",
            "mcp_method": "tools/call",
            "mcp_name": "git_log",
        }
        response = _post(agent, text.encode("utf-8", "surrogatepass"), proper | headers)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text

    attack()
    assert {200, 400} <= statuses
    authorized = ledger("call.authorized")
    assert len(sent()) == len(authorized)
    assert {params["name"] for params in sent()} <= {"git_log"}
    assert {entry.tool for entry in authorized} <= {"git_log"}
    assert eventually(settled)  # an end is on record a moment after its answer


def _post(agent: Client, body: bytes, headers: dict[str, str | None]) -> Any:
    found: dict[str, str | None] = {
        **agent.headers(),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in found.items() if value is not None]
    return agent.http.post(agent.endpoint, content=body, headers=raw)


def test_random_documents_in_place_of_params_break_nothing(agent: Client, sent: Sent) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=8,
    )  # fmt: skip
    access = ["request_access", "check_request", "list_requestable", "my_access", "release_access", "cancel_request"]
    members = [
        "tools",
        "reason",
        "minutes",
        "context",
        "request_id",
        "wait_seconds",
        "search",
        "grant_id",
        "name",
        "arguments",
    ]
    arguments = st.dictionaries(st.sampled_from(members) | st.text(max_size=5), values, max_size=4)

    @hypothesis_settings(max_examples=250, database=None, deadline=None)
    @given(st.sampled_from([*access, "call_tool", "git_log", "git_commit", "x\0y"]), arguments | values)
    def attack(name: str, given_arguments: Any) -> None:
        if isinstance(given_arguments, dict):
            given_arguments.pop("wait_seconds", None)
        params = {"_meta": META, "name": name, "arguments": given_arguments}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        response = agent.post(body, mcp_name="=?base64?eAB5?=" if "\0" in name else name)
        assert response.status_code in (200, 400), response.text

    attack()
    assert {params["name"] for params in sent()} <= {"git_log"}


def test_text_that_databases_choke_on_is_only_text(cast: Cast, gateway: Served, sent: Sent) -> None:
    with gateway.client(cast) as agent:
        nul = "a\0b\u202e"
        meta = META | {"io.modelcontextprotocol/clientInfo": {"name": nul, "version": nul}}
        params = {"_meta": meta, "name": "git_log", "arguments": {"message": nul}}
        assert "result" in agent.ask("tools/call", params)
        assert sent()[0]["arguments"] == {"message": nul}
        asked = {"tools": ["git_commit"], "reason": nul, "context": {"plan": nul}}
        result = agent.ask("tools/call", {"_meta": meta, "name": "request_access", "arguments": asked})["result"]
        assert not result["isError"], result
        for name, arguments in (
            ("check_request", {"request_id": nul}), ("list_requestable", {"search": nul}),
            ("request_access", {"tools": [nul], "reason": "x"}),
        ):  # fmt: skip
            assert "result" in agent.ask("tools/call", {"_meta": meta, "name": name, "arguments": arguments})
        params = {"_meta": meta, "name": nul, "arguments": {}}
        response = agent.post(agent.message("tools/call", params), mcp_name="=?base64?YQBi4oCu?=")
        assert response.json()["error"]["code"] == PARAMS
        assert "\0" not in response.text
    with gateway.client(cast) as old:
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": nul * 100, "version": nul},
        }
        old.session = old.post(old.message("initialize", params)).headers["mcp-session-id"]
        assert "git_log" in old.tools()
