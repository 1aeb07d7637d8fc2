"""`jitaccess agents snippet`: what it prints is valid, works as it stands, and keeps the token out of commands."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from jitaccess.catalog.services import set_server_enabled
from jitaccess.catalog.snippets import CLIENTS, EVERY_SERVER, PLACEHOLDER, snippet
from jitaccess.identity.models import AccessToken
from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.runtime.cli import _parser
from tests.cast import OPERATOR, Cast
from tests.installation import Installation


def entry_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The only server of a client's file, and its name."""
    ((name, entry),) = (config.get("mcpServers") or config["servers"]).items()
    return name, entry


def reach(config: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The URL and the headers that a client with this file sends; mcp-remote fills in its variables itself."""
    _, entry = entry_of(config)
    if "url" in entry:
        return entry["url"], entry["headers"]
    args = entry["args"]
    name, _, value = args[args.index("--header") + 1].partition(":")
    for variable, content in entry["env"].items():
        value = value.replace(f"${{{variable}}}", content)
    return args[args.index("mcp-remote") + 1], {name: value}


async def tools(url: str, headers: dict[str, str]) -> set[str]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.pure
def test_every_snippet_reaches_the_gateway_just_as_it_is_printed(installation: Installation) -> None:
    url = installation.up().url
    printed = installation.cli("agents", "snippet", "demo-agent", "--client", "cursor", "--ttl", "5m")
    token = reach(json.loads(printed.stdout))[1]["Authorization"].removeprefix("Bearer ")
    assert token not in printed.stderr
    assert "good until" in printed.stderr
    assert "UTC" in printed.stderr
    assert ".cursor/mcp.json" in printed.stderr

    for server, expected in ((EVERY_SERVER, "git__git_log"), ("git", "git_log")):
        configs = {client: snippet(client, server=server, url=url, token=token).config for client in CLIENTS}
        for client, config in configs.items():
            name, _ = entry_of(config)
            assert name == ("jitaccess" if server == EVERY_SERVER else "git")
            assert expected in asyncio.run(tools(*reach(config))), f"{client}, {server}"


def run(*arguments: str) -> int:
    parsed = _parser().parse_args(["agents", "snippet", *arguments])
    return int(parsed.run(parsed))


def test_for_programs_everything_is_in_one_object(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cast.agent.name, "--server", "git", "--for", "olga", "--json") == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert err == ""
    token = AccessToken.objects.get()
    assert token.user == cast.olga
    assert (data["client"], data["server"], data["expires_at"]) == ("claude-code", "git", token.expires_at.isoformat())
    assert reach(data["config"])[1] == {"Authorization": f"Bearer {data['token']}"}


def test_no_token_is_issued_when_none_is_wanted_or_the_server_is_not_there(
    cast: Cast, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cast.agent.name, "--client", "vscode", "--no-token") == 0
    out, err = capsys.readouterr()
    assert "promptString" in out
    assert "There is no token in it yet" in err
    with pytest.raises(NotFound, match="nowhere"):
        run(cast.agent.name, "--server", "nowhere")
    set_server_enabled(server=cast.server, enabled=False, operator=OPERATOR)
    with pytest.raises(Invalid, match="disabled"):
        run(cast.agent.name, "--server", "git")
    assert capsys.readouterr().out == ""
    assert not AccessToken.objects.exists()


@pytest.mark.pure
@pytest.mark.parametrize("client", sorted(CLIENTS))
@pytest.mark.parametrize("server", [EVERY_SERVER, "git"])
def test_the_token_stands_in_no_command_and_in_no_argument(client: str, server: str) -> None:
    made = snippet(client, server=server, url="https://desk.example", token="jit_secret value")
    commands = [shlex.join(command) for command in made.commands]
    assert [tuple(shlex.split(command)) for command in commands] == list(made.commands)
    _, entry = entry_of(made.config)
    for text in (*commands, *made.hints, *made.files, *entry.get("args", ())):
        assert "jit_secret" not in text
        assert text in (*commands, *made.hints, *made.files) or " " not in text, "Windows splits arguments at spaces"
    assert json.dumps(made.config).count("Bearer jit_secret value") == 1


@pytest.mark.pure
@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_without_a_token_there_is_a_placeholder_or_a_question(client: str) -> None:
    config = snippet(client, server=EVERY_SERVER, url="https://desk.example", token=None).config
    _, headers = reach(config)
    if client == "vscode":
        (asked,) = config["inputs"]
        assert headers == {"Authorization": f"Bearer ${{input:{asked['id']}}}"}
        assert asked["password"] is True
    else:
        assert headers == {"Authorization": f"Bearer {PLACEHOLDER}"}


@pytest.mark.pure
@pytest.mark.parametrize(
    ("url", "allowed"),
    [("http://127.0.0.1:8000", False), ("https://desk.example", False), ("http://desk.internal:8000", True)],
)
def test_mcp_remote_is_told_to_bear_with_plain_http_only_where_it_must(url: str, allowed: bool) -> None:
    _, entry = entry_of(snippet("claude-desktop", server="git", url=url, token="t").config)
    assert ("--allow-http" in entry["args"]) is allowed
