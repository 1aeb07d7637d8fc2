"""Five real servers behind one gateway, both transports and both eras, from three clients: the loop for each.

filesystem (Node, 2025-11-25, stdio), everything (Node, HTTP), git (Python, stdio), and a server of the official Python
SDK over HTTP, once in each era. Clients: the official Python client, the Inspector's command line, and mcp-remote.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests import peers
from tests.installation import ROOT, Installation, Person, eventually, free_port

# What differs here is the servers and the clients, not the database: one run is enough.
pytestmark = [pytest.mark.pure, pytest.mark.timeout(240)]
# One that only looks and one that changes something, with arguments; what the answer has in it.
Case = tuple[dict[str, Any], str]


@dataclass
class Behind:
    """A running installation with everything behind it. `url` is that of the endpoint of all servers."""

    installation: Installation
    url: str
    token: str
    anna: Person
    reads: dict[str, Case]
    writes: dict[str, Case]


@contextlib.contextmanager
def http_server(*command: str, port: int, env: dict[str, str] | None = None) -> Iterator[str]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, within=30, what="the server listens")
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()  # it would wait for our open streams
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def http_servers() -> Iterator[dict[str, str]]:
    """URLs of the everything server and of the SDK's."""
    one, two = free_port(), free_port()
    with (
        http_server(peers.NODE, peers.EVERYTHING, "streamableHttp", port=one, env={"PORT": str(one)}) as everything,
        http_server(sys.executable, "-m", "tests.sdk_server", str(two), port=two) as clock,
    ):
        yield {"everything": everything, "clock": clock}


@pytest.fixture(scope="module")
def behind(
    first_start: Installation, http_servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    """As an admin does it: import a client's file, refresh, classify, and say in the admin who may use and ask what."""
    folder = tmp_path_factory.mktemp("servers")
    installation = first_start.copy(folder / "var")
    files = folder / "files"
    files.mkdir()
    (files / "a.txt").write_text("alpha")
    described = folder / "claude_desktop_config.json"
    described.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "Files": {"command": peers.NODE, "args": [peers.FILESYSTEM, str(files)]},
                    "everything": {"type": "http", "url": http_servers["everything"]},
                    "clock-modern": {"url": http_servers["clock"], "headers": {"X-Api-Key": "kept-sealed"}},
                    "clock-legacy": {"url": http_servers["clock"]},
                }
            }
        )
    )
    installation.environment["JITACCESS_EGRESS_ALLOW"] = "127.0.0.1/32"
    run = installation.cli
    run("servers", "import", str(described))
    run("servers", "refresh")
    run("servers", "classify", "files", "read_text_file=read", "write_file=write")
    run("servers", "classify", "everything", "echo=read", "get-sum=write")
    for name in ("clock-modern", "clock-legacy"):
        run("servers", "classify", name, "ring=read", "mend=write")
    process = installation.up()
    admin = installation.sign_in("admin", process.url)
    for name in ("files", "everything", "clock-modern", "clock-legacy"):
        _protect(installation, admin, name)
    yield Behind(
        installation,
        f"{process.url}/mcp",
        installation.ready_token,
        installation.sign_in("anna", process.url),
        reads={
            "files__read_text_file": ({"path": str(files / "a.txt")}, "alpha"),
            "everything__echo": ({"message": "hello"}, "hello"),
            "git__git_log": ({"repo_path": "."}, "Begin the notes"),
            "clock-modern__ring": ({"times": 2}, "ding ding"),
            "clock-legacy__ring": ({"times": 1}, "ding"),
        },
        writes={
            "files__write_file": ({"path": str(files / "b.txt"), "content": "beta"}, "b.txt"),
            "everything__get-sum": ({"a": 2, "b": 3}, "5"),
            "git__git_commit": ({"repo_path": ".", "message": "Through the gateway"}, "committed"),
            "clock-modern__mend": ({"part": "hand"}, "mended hand"),
            "clock-legacy__mend": ({"part": "bell"}, "mended bell"),
        },
    )
    installation.stop()


def _protect(installation: Installation, admin: Person, name: str) -> None:
    (server,) = installation.query(f"SELECT id FROM jit_catalog_server WHERE slug = '{name}'")
    (policy,) = installation.query("SELECT id FROM jit_policy_approvalpolicy")
    for path, fields in (
        ("serveraccess", {"server": str(server["id"]), "every_team": "on"}),
        (
            "requestable",
            {
                "server": str(server["id"]),
                "access": "write",
                "arguments": "any",
                "max_minutes": "60",
                "max_advance_minutes": "0",
                "policy": str(policy["id"]),
            },
        ),
    ):
        looked = admin.post(f"/admin/jit_policy/{path}/add/", **fields)
        token = re.search(r'name="previewed" value="([^"]+)"', looked.text)
        assert token, looked.text
        answer = admin.post(f"/admin/jit_policy/{path}/add/", **fields, previewed=token[1])
        assert answer.status_code == 200, answer.text
        assert "was added successfully" in answer.text


@contextlib.asynccontextmanager
async def python_client(behind: Behind, era: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {behind.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(behind.url, http_client=http), mode=era) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def remote_client(behind: Behind) -> AsyncIterator[Client]:
    """What a desktop client starts: mcp-remote on its standard input and output."""
    home = behind.installation.var / "home"
    parameters = StdioServerParameters(
        command=peers.NODE,
        args=[
            peers.REMOTE,
            behind.url,
            "--allow-http",
            "--transport",
            "http-only",
            "--header",
            "Authorization:${AUTH}",
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "AUTH": f"Bearer {behind.token}"},
    )
    with (behind.installation.var / "remote.log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode="legacy") as client:
            yield client


async def loop(behind: Behind, client: Client, tool: str) -> None:
    """Refused, asked for, approved by Anna, called, given back, refused."""
    arguments, wanted = behind.writes[tool]
    refused = await client.call_tool(tool, arguments)
    assert refused.is_error
    assert f'"tools":["{tool}"]' in refused.content[0].text
    asked = await client.call_tool("request_access", {"tools": [tool], "reason": "The loop", "minutes": 5})
    request = asked.structured_content["request_id"]
    assert (await asyncio.to_thread(behind.anna.decide, request, "approve")).status_code == 200
    state = (await client.call_tool("check_request", {"request_id": request})).structured_content
    assert state["status"] == "approved"
    worked = await client.call_tool(tool, arguments)
    assert not worked.is_error, worked.content
    assert wanted in worked.content[0].text
    await client.call_tool("release_access", {"grant_id": state["grant"]["grant_id"]})
    assert (await client.call_tool(tool, arguments)).is_error


async def reads(behind: Behind, client: Client) -> None:
    tools = {tool.name: tool.description or "" for tool in (await client.list_tools()).tools}
    assert set(behind.reads) | set(behind.writes) <= set(tools)
    assert all(tools[name].startswith("[LOCKED: needs approval]") for name in behind.writes)
    assert "everything__get-env" not in tools, "unreviewed tools are hidden"
    for name, (arguments, wanted) in behind.reads.items():
        answer = await client.call_tool(name, arguments)
        assert not answer.is_error, answer.content
        assert wanted in answer.content[0].text


def inspect(behind: Behind, *arguments: str) -> dict[str, Any]:
    """One use of the Inspector's command line."""
    command = [peers.NODE, peers.INSPECTOR, "--cli", behind.url, "--transport", "http"]
    command += ["--header", f"Authorization: Bearer {behind.token}", *arguments]
    home = behind.installation.var / "home"
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or done.stdout.strip(), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_loop_with_every_server_from_the_python_client_in_both_eras_and_through_mcp_remote(behind: Behind) -> None:
    async def use() -> None:
        async with python_client(behind, "2026-07-28") as modern, python_client(behind, "legacy") as legacy:
            await reads(behind, modern)
            await reads(behind, legacy)
            for number, tool in enumerate(behind.writes):
                await loop(behind, (modern, legacy)[number % 2], tool)
        async with remote_client(behind) as remote:
            await reads(behind, remote)
            await loop(behind, remote, "files__write_file")

    asyncio.run(use())
    done = {(row["server_name"], row["tool"]) for row in behind.installation.ledger("call.completed")}
    assert done >= {tuple(name.split("__", 1)) for name in (*behind.reads, *behind.writes)}
    assert not behind.installation.ledger("call.outcome_unknown")
    assert "Intact" in behind.installation.cli("audit", "verify").stdout
    assert "kept-sealed" not in json.dumps(behind.installation.ledger(), default=str)


def test_the_loop_from_the_inspectors_command_line(behind: Behind) -> None:
    tools = {tool["name"] for tool in inspect(behind, "--method", "tools/list")["tools"]}
    assert set(behind.reads) <= tools
    rung = inspect(behind, "--method", "tools/call", "--tool-name", "clock-modern__ring", "--tool-arg", "times=3")
    assert rung["content"][0]["text"] == "ding ding ding"
    mend = ("--tool-name", "clock-legacy__mend", "--tool-arg", "part=hand")
    refused = inspect(behind, "--method", "tools/call", *mend)
    assert refused["isError"]
    assert "request_access" in refused["content"][0]["text"]
    ask = ('tools=["clock-legacy__mend"]', "reason=From the command line", "minutes=5")
    asked = inspect(behind, "--method", "tools/call", "--tool-name", "request_access", "--tool-arg", *ask)
    assert behind.anna.decide(asked["structuredContent"]["request_id"], "approve").status_code == 200
    mended = inspect(behind, "--method", "tools/call", *mend)
    assert not mended.get("isError")
    assert mended["content"][0]["text"] == "mended hand"
    mine = inspect(behind, "--method", "tools/call", "--tool-name", "my_access")["structuredContent"]
    (grant,) = mine["grants"]
    back = ("--tool-name", "release_access", "--tool-arg", f"grant_id={grant['grant_id']}")
    assert not inspect(behind, "--method", "tools/call", *back).get("isError")
    assert inspect(behind, "--method", "tools/call", *mend)["isError"]


def test_a_server_that_goes_away_harms_only_itself_and_the_doctor_says_so(
    installation: Installation, tmp_path: Path
) -> None:
    port = free_port()
    installation.environment["JITACCESS_EGRESS_ALLOW"] = "127.0.0.1/32"
    with http_server(sys.executable, "-m", "tests.sdk_server", str(port), port=port) as url:
        installation.cli("servers", "add", "clock", "--url", url)
        installation.cli("servers", "refresh", "clock")
        installation.cli("servers", "classify", "clock", "ring=read")
        process = installation.up()
        _protect(installation, installation.sign_in("admin", process.url), "clock")
        behind = Behind(installation, f"{process.url}/mcp", installation.ready_token, Person(process.url), {}, {})

        async def calls(*, clock_works: bool) -> None:
            async with python_client(behind, "2026-07-28") as client:
                rung = await client.call_tool("clock__ring", {"times": 1})
                assert rung.is_error is not clock_works, rung.content
                assert not (await client.call_tool("git__git_log", {"repo_path": "."})).is_error
                assert "clock__ring" in {tool.name for tool in (await client.list_tools()).tools}

        asyncio.run(calls(clock_works=True))
    asyncio.run(calls(clock_works=False))
    told = installation.cli("servers", "doctor", check=False)
    assert told.returncode == 1
    assert "clock" in told.stdout
    (failed,) = installation.ledger("call.failed")
    assert failed["data"]["sent"] is False
