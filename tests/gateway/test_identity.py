"""A server that is told who calls: by a token that it can check itself, and that nobody else can make."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from django.conf import settings as django_settings
from django.test import Client as Browser

from jitaccess.catalog.services import set_options
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.gateway.upstream.identity import HEADER, META
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, ledger
from tests.gateway.test_http_upstreams import upstream  # noqa: F401 - a fixture
from tests.gateway.upstream.web_server import Seen, WebServer

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def verified() -> Callable[[str], dict[str, Any]]:
    """What a server would do: the claims of a token that holds by the published keys, as another library reads it."""
    keys = jwt.PyJWKSet.from_dict(Browser().get("/access/v1/jwks.json").json())

    def verify(token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        assert header["typ"] == "jitaccess-identity+jwt"
        return dict(
            jwt.decode(
                token,
                keys[header["kid"]],
                algorithms=["EdDSA"],
                audience=f"{django_settings.PUBLIC_URL}/mcp/git",
                issuer=django_settings.PUBLIC_URL,
                options={"require": ["iss", "aud", "sub", "iat", "exp", "jti"]},
            )
        )

    return verify


def told(cast: Cast) -> None:
    set_options(server=cast.server, changes={"identity_header": True}, operator=OPERATOR)


def calls(upstream: WebServer) -> list[Seen]:  # noqa: F811 - as the fixture is called
    return [seen for seen in upstream.seen if b'"tools/call"' in seen.body]


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_server_over_http_verifies_who_calls_and_answers_accordingly(
    cast: Cast,
    start: Callable[..., Served],
    upstream: WebServer,  # noqa: F811 - a fixture
    verified: Callable[[str], dict[str, Any]],
    era: str,
) -> None:
    told(cast)

    async def greet(seen: Seen) -> web.Response:
        claims = verified(seen.request.headers[HEADER])
        return seen.json({"resultType": "complete", "content": [{"type": "text", "text": json.dumps(claims)}]})

    upstream.on["tools/call"] = greet
    cast.agent.users.add(cast.anna)
    served = start({"git": HttpServer("git", upstream.url, {})})
    with served.client(cast) as alone, served.client(cast, user=cast.anna) as for_anna:
        for client, sub, name in ((alone, cast.agent.pk, "demo-agent"), (for_anna, cast.anna.pk, "anna")):
            if era == "legacy":
                client.initialize()
            claims = json.loads(client.call("git_log")["content"][0]["text"])
            assert (claims["sub"], claims["preferred_username"]) == (str(sub), name)
            assert claims["exp"] - claims["iat"] == 60
            entry = next(one for one in reversed(ledger()) if one.event == "call.authorized")
            assert claims["jti"] == str(entry.call)
            acts = {"sub": str(cast.agent.pk), "preferred_username": "demo-agent"}
            assert claims.get("act") == (acts if client is for_anna else None)
    for seen in calls(upstream):
        assert META.encode() not in seen.body


def test_what_a_client_says_about_itself_is_never_passed_on(
    cast: Cast,
    start: Callable[..., Served],
    upstream: WebServer,  # noqa: F811 - a fixture
    verified: Callable[[str], dict[str, Any]],
) -> None:
    served = start({"git": HttpServer("git", upstream.url, {})})
    with served.client(cast) as client:
        for switched_on in (False, True):
            if switched_on:
                told(cast)
            message = client.message("tools/call", {"name": "git_log", "arguments": {}})
            message["params"]["_meta"] = message["params"]["_meta"] | {META: "forged"}
            assert client.post(message, x_jitaccess_identity="forged").status_code == 200
    before, after = calls(upstream)
    assert HEADER not in before.request.headers
    assert verified(after.request.headers[HEADER])["sub"] == str(cast.agent.pk)
    assert "forged" not in str([(one.request.headers, one.body) for one in (before, after)])


def test_a_program_is_told_in_meta_and_not_at_all_unless_the_option_says_so(
    cast: Cast, agent: Client, sent: Sent, verified: Callable[[str], dict[str, Any]]
) -> None:
    agent.call("git_log")
    told(cast)
    agent.call("git_log")
    before, after = sent()
    assert META not in before.get("_meta", {})
    assert verified(after["_meta"][META])["sub"] == str(cast.agent.pk)


def test_a_token_is_not_good_beyond_the_right_to_the_call(cast: Cast, agent: Client, sent: Sent, clock: Clock) -> None:
    told(cast)
    cast.grant("git_commit", seconds=600)
    clock.shift(570)
    agent.call("git_commit", message="x")
    [params] = sent()
    claims = jwt.decode(params["_meta"][META], options={"verify_signature": False})
    assert 0 < claims["exp"] - claims["iat"] <= 30
