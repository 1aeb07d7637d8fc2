"""Headers must agree with the body, which decides; and every request says in which era it speaks."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.catalog.services import register_server
from jitaccess.identity.services import create_agent, issue_token, revoke_token
from jitaccess.policy.models import ServerAccess
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import META, Client, Served, echo, ledger, told

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
MISMATCH, UNSUPPORTED, REQUEST, PARAMS = -32020, -32022, -32600, -32602


def a_call(client: Client, tool: str = "git_log") -> dict[str, Any]:
    return client.message("tools/call", {"name": tool, "arguments": {}})


def sentinel(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


DISAGREEING = [
    ({"mcp_protocol_version": None}, MISMATCH),
    ({"mcp_protocol_version": "2025-11-25"}, MISMATCH),
    ({"mcp_protocol_version": ""}, MISMATCH),
    ({"mcp_protocol_version": "2026-07-28, 2026-07-28"}, MISMATCH),
    ({"mcp_method": None}, MISMATCH),
    ({"mcp_method": "tools/list"}, MISMATCH),
    ({"mcp_method": "TOOLS/CALL"}, MISMATCH),
    ({"mcp_name": None}, MISMATCH),
    ({"mcp_name": "git_status"}, MISMATCH),
    ({"mcp_name": "Git_log"}, MISMATCH),
    ({"mcp_name": "git_log, git_log"}, MISMATCH),
    ({"mcp_name": sentinel("git_status")}, MISMATCH),
    ({"mcp_name": sentinel(sentinel("git_log"))}, MISMATCH),
    ({"mcp_name": "=?base64?not base64?="}, MISMATCH),
    ({"mcp_name": "=?base64?Z2l0X2xvZw?="}, MISMATCH),
    ({"mcp_name": "=?base64?/w==?="}, MISMATCH),
]


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_headers_that_disagree_with_the_body_are_refused(cast: Cast, gateway: Served, sent: Sent, era: str) -> None:
    with gateway.client(cast) as client:
        if era == "legacy":
            client.initialize()
        for changes, code in DISAGREEING:
            if era == "legacy" and (None in changes.values() or "mcp_protocol_version" in changes):
                continue  # the older revisions have no such duty
            response = client.post(a_call(client), **changes)
            assert (response.status_code, response.json()["error"]["code"]) == (400, code), changes
    assert sent() == []
    assert told() == []


def test_a_header_of_latin_1_bytes_is_no_name_and_no_accident(agent: Client, sent: Sent) -> None:
    for value in ("=?base64?é?=", "git_lög", "=?base64??="):
        headers = [
            (name.encode(), text.encode()) for name, text in agent.headers(a_call(agent)).items() if name != "mcp-name"
        ]
        raw = [*headers, (b"mcp-name", value.encode("latin-1"))]
        response = agent.http.post(agent.endpoint, json=a_call(agent), headers=raw)
        assert (response.status_code, response.json()["error"]["code"]) == (400, MISMATCH)
    assert sent() == []


@pytest.mark.parametrize(
    "name", ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "authorization", "origin"]
)
def test_a_routing_header_given_twice_is_refused_even_when_both_say_the_same(
    agent: Client, sent: Sent, name: str
) -> None:
    message = a_call(agent)
    headers = list(agent.headers(message).items())
    value = dict(headers).get(name, "http://127.0.0.1:8000")
    twice = [*((key, text) for key, text in headers if key != name), (name, value), (name.title(), value)]
    response = agent.http.post(agent.endpoint, content=json.dumps(message), headers=twice)
    assert (response.status_code, response.json()["error"]["code"]) == (400, MISMATCH)
    assert sent() == []


def test_a_name_may_come_in_the_sentinel_which_is_decoded_once(agent: Client, sent: Sent) -> None:
    assert agent.post(a_call(agent), mcp_name=sentinel("git_log")).status_code == 200
    assert [params["name"] for params in sent()] == ["git_log"]


def test_an_unsupported_version_is_told_what_is_supported(agent: Client) -> None:
    for version in ("2099-01-01", "2024-11-05", "x"):
        meta = META | {"io.modelcontextprotocol/protocolVersion": version}
        response = agent.post(agent.message("tools/list", {"_meta": meta}), mcp_protocol_version=version)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, UNSUPPORTED)
        assert error["data"] == {
            "supported": ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"], "requested": version,
        }  # fmt: skip
        bare = agent.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, mcp_protocol_version=version)
        assert (bare.status_code, bare.json()["error"]["code"]) == (400, UNSUPPORTED)


def test_a_modern_notification_may_not_contradict_its_header(agent: Client) -> None:
    message = agent.message("notifications/cancelled", {"requestId": 1})
    del message["id"]
    assert agent.post(message).status_code == 202
    assert agent.post(message, mcp_method="tools/call").status_code == 400


# -- the older era ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "settled"),
    [
        ("2025-11-25", "2025-11-25"), ("2025-06-18", "2025-06-18"), ("2025-03-26", "2025-03-26"),
        ("2026-07-28", "2025-11-25"), ("2024-11-05", "2025-11-25"), ("2099-01-01", "2025-11-25"), (7, "2025-11-25"),
    ],
)  # fmt: skip
def test_initialize_settles_on_an_older_version(cast: Cast, gateway: Served, wanted: Any, settled: str) -> None:
    with gateway.client(cast) as client:
        params = {"protocolVersion": wanted, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        for header in (None, "2026-07-28", settled):
            response = client.post(client.message("initialize", params), mcp_protocol_version=header)
            assert response.status_code == 200, response.text
            result = response.json()["result"]
            assert result["protocolVersion"] == settled
            assert result["capabilities"] == {"tools": {"listChanged": True}}
            assert "request_access" in result["instructions"]
            assert not {"resultType", "ttlMs", "cacheScope"} & result.keys()
        client.session, client.version = response.headers["mcp-session-id"], settled
        assert "git_log" in client.tools()


def test_the_newer_era_has_no_initialize_and_the_older_no_discovery(agent: Client, cast: Cast, gateway: Served) -> None:
    response = agent.post(
        agent.message("initialize", {"_meta": META}), mcp_protocol_version="2026-07-28", mcp_method="initialize"
    )
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601)
    assert "mcp-session-id" not in response.headers
    with gateway.client(cast) as old:
        old.initialize()
        for method in ("server/discover", "subscriptions/listen"):
            assert old.ask(method)["error"]["code"] == -32601
        assert old.ask("ping")["result"] == {}


def test_the_version_header_of_a_session_must_be_one_of_the_older_versions(legacy: Client) -> None:
    for version in ("2024-11-05", "1", "2099-01-01"):
        response = legacy.post(legacy.message("tools/list"), mcp_protocol_version=version)
        assert (response.status_code, response.json()["error"]["code"]) == (400, UNSUPPORTED)
    assert legacy.post(legacy.message("tools/list"), mcp_protocol_version=None).status_code == 200


def test_without_a_session_there_is_nothing_but_initialize(cast: Cast, gateway: Served) -> None:
    with gateway.client(cast) as client:
        for method in ("tools/list", "ping", "notifications/initialized"):
            body = {"jsonrpc": "2.0", "id": 1, "method": method}
            if method.startswith("notifications"):
                del body["id"]
            response = client.post(body, mcp_protocol_version="2025-11-25", mcp_method=None)
            assert response.status_code == 400, method


def test_a_session_that_is_broken_or_somebody_elses_is_unknown(
    cast: Cast, gateway: Served, legacy: Client, sent: Sent
) -> None:
    good = legacy.session
    assert good
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    other_server = register_server(slug="files", operator=cast.operator)
    ServerAccess.objects.create(server=other_server, every_team=True)
    with gateway.client(cast, agent=other) as stranger, gateway.client(cast, user=cast.olga) as delegated:
        stranger.session = delegated.session = good
        assert stranger.post(a_call(stranger)).status_code == 404
        assert delegated.post(a_call(delegated)).status_code == 404
        with stranger.listen() as stream:
            assert stream.response.status_code == 404
    legacy.server = "files"
    assert legacy.post(a_call(legacy)).status_code == 404
    legacy.server = "git"
    kid, _, body = good.partition(".")
    for broken in (
        "",
        "x",
        good[:-1],
        good[:-2] + "AA",
        good + "=",
        f"k9.{body}",
        f"{kid}.",
        f"{kid}.{body[::-1]}",
        good.upper(),
        "é",
    ):
        legacy.session = broken
        raw = [
            (name.encode(), text.encode("latin-1"))
            for name, text in legacy.headers().items()
            if name != "mcp-session-id"
        ]
        raw.append((b"mcp-session-id", broken.encode("latin-1")))
        response = legacy.http.post(legacy.endpoint, json=a_call(legacy), headers=raw)
        assert response.status_code == 404, broken
        assert response.json()["error"]["code"] == REQUEST
    assert sent() == []
    assert told() == []


def test_a_new_token_of_the_same_principal_keeps_the_session_and_another_process_knows_it(
    cast: Cast, legacy: Client, start: Callable[..., Served], sent: Sent
) -> None:
    value, _ = issue_token(agent=cast.agent, ttl=60, operator=cast.operator)
    assert legacy.row
    revoke_token(token=legacy.row, operator=cast.operator)
    assert legacy.post(a_call(legacy)).status_code == 401
    legacy.token = value
    assert legacy.call("git_log")
    legacy.url = start().url
    assert legacy.call("git_log")
    assert len(sent()) == 2
    clients = {entry.client for entry in ledger("call.authorized")}
    assert clients == {"old/0"}


# -- hosts, origins, tokens -------------------------------------------------------------------------------------------


def test_only_our_own_names_are_served(agent: Client, gateway: Served, sent: Sent) -> None:
    port = gateway.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.", "[::1", "[::2]", "a@127.0.0.1",
                 "127.0.0.1/x", "127.0.0.1:x", "127.0.0.1:8000:1", "127.1", "", "127.0.0.1, evil.example", "*", "0.0.0.0"):  # fmt: skip
        response = agent.post(a_call(agent), host=host)
        assert response.status_code == 421 if host else response.status_code in (400, 421), host
    for host in ("localhost", f"localhost:{port}", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:8000"):
        assert agent.post(a_call(agent), host=host).status_code == 200, host
    assert len(sent()) == 6


def test_only_our_own_origins_may_send_browsers(agent: Client, sent: Sent) -> None:
    for origin in (
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1:1",
        "https://127.0.0.1:8000",
        "http://127.0.0.1:8000.evil",
    ):
        assert agent.post(a_call(agent), origin=origin).status_code == 403, origin
    with agent.listen() as stream:
        assert stream.response.status_code == 200
    assert (
        agent.http.get(agent.endpoint, headers=agent.headers() | {"origin": "http://evil.example"}).status_code == 403
    )
    assert sent() == []
    assert agent.post(a_call(agent), origin="http://127.0.0.1:8000").status_code == 200


def test_without_a_good_token_nothing_is_said_but_how_to_come_back(
    cast: Cast, gateway: Served, agent: Client, clock: Clock, sent: Sent
) -> None:
    _, revoked = issue_token(agent=cast.agent, ttl=60, operator=cast.operator)
    with gateway.client(cast) as gone, gateway.client(cast, ttl=30) as late:
        assert gone.row
        revoke_token(token=gone.row, operator=cast.operator)
        clock.shift(30)
        bad = [None, "", "Bearer", "Basic YTpi", agent.token, "Bearer nothing", f"Bearer {agent.token}x",
               f"Bearer {agent.token[:-1]}", f"Bearer {gone.token}", f"Bearer {late.token}", f"Bearer {agent.token} x",
               f"Bearer {agent.row.hash if agent.row else ''}"]  # fmt: skip
        for value in bad:
            for message in (a_call(agent), agent.message("tools/list"), b"{"):
                response = agent.post(message, authorization=value)
                assert response.status_code == 401, value
                assert response.headers["www-authenticate"].startswith("Bearer ")
                assert agent.token not in response.text
            assert agent.http.get(agent.endpoint, headers={"authorization": value or ""}).status_code == 401
    response = agent.http.post(f"{agent.endpoint}?access_token={agent.token}", json=a_call(agent))
    assert response.status_code == 401
    assert revoked.revoked_at is None
    assert sent() == []
    assert told() == []
    assert agent.post(a_call(agent), authorization=f"bearer  {agent.token}").status_code == 200


def test_a_stranger_is_turned_away_before_saying_much(gateway: Served) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        head = "content-type: application/json\r\ncontent-length: 4000000\r\n"
        plain.sendall(f"POST /mcp/git HTTP/1.1\r\nhost: {host}\r\n{head}\r\n{{".encode())
        assert b" 401 " in plain.recv(100)


def test_a_server_nobody_knows_and_one_that_is_disabled_are_not_found(cast: Cast, agent: Client) -> None:
    cast.server.enabled = False
    cast.server.save()
    for server in ("git", "nothing", "GIT", "git/x", "../git", "/", "%00"):
        agent.server = server
        response = agent.post(a_call(agent))
        assert response.status_code == 404, server
        assert response.json()["error"]["code"] == -32601
    cast.server.enabled = True
    cast.server.save()
    agent.server = "git"
    assert agent.post(a_call(agent)).status_code == 200


def test_a_server_that_is_closed_to_the_team_answers_like_one_that_does_not_exist(cast: Cast, agent: Client) -> None:
    cast.server.instructions = "Deploy on Fridays only."
    cast.server.save()
    assert "Fridays" in agent.ask("server/discover")["result"]["instructions"]
    cast.access.teams.clear()
    closed = agent.post(agent.message("server/discover"))
    cast.server.slug = "other"
    cast.server.save()
    missing = agent.post(agent.message("server/discover"))
    assert (closed.status_code, closed.json()) == (missing.status_code, missing.json())
    assert closed.status_code == 404


def test_several_servers_do_not_see_one_another(cast: Cast, start: Callable[..., Served], tmp_path: Any) -> None:
    other = register_server(slug="files", operator=cast.operator)
    ServerAccess.objects.create(server=other, every_team=True)
    served = start({"git": echo(tmp_path / "git"), "files": echo(tmp_path / "files", slug="files")})
    with served.client(cast) as agent:
        agent.server = "files"
        assert agent.ask("tools/call", {"name": "git_log", "arguments": {}})["error"]["code"] == PARAMS
        assert "git_log" not in agent.tools()
    assert not (tmp_path / "git").exists()
    assert not (tmp_path / "files").exists()
