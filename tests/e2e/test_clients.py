"""Every client that people have, at one gateway at once: what they see, how they read a refusal, how they learn of a
change, and what they may do then.

The official Python client in both eras, the TypeScript SDK's v1, its v2 in both eras, mcp-remote in front of another
client, and the Inspector's command line, which looks once and leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests import peers
from tests.e2e.test_every_server import http_server
from tests.installation import Installation, Person, free_port
from tests.mcp_client import LEGACY, MODERN, connect

# What differs here is the clients, not the database.
pytestmark = [pytest.mark.pure, pytest.mark.timeout(240)]

# The names that come last, in this order, whatever else is listed.
BUILT_IN = [
    "call_tool", "cancel_request", "check_request", "list_requestable", "my_access", "release_access", "request_access",
]  # fmt: skip
ACCESS = """\
kind: server
version: v1
metadata: {name: clock}
spec:
  access: every-team
  tools: {ring: read, mend: write}
  requestables:
    - {access: [write], max_duration: 1h, approval: reviewers}
"""
LOCKED = "[LOCKED: needs approval]"
MEND = {"part": "hand"}
LONGEST = 30.0


class Peer(Protocol):
    """A client. `changes` has something for every list_changed it was told of; None: it does not listen."""

    changes: asyncio.Queue[object] | None

    async def tools(self) -> list[dict[str, Any]]: ...

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]: ...


@dataclass
class Official:
    """The Python SDK's client, itself or with something in between."""

    client: Client
    changes: asyncio.Queue[object] | None = field(default_factory=asyncio.Queue)

    async def tools(self) -> list[dict[str, Any]]:
        return [one.model_dump(by_alias=True) for one in (await self.client.list_tools()).tools]

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return dict((await self.client.call_tool(name, arguments)).model_dump(by_alias=True))


@dataclass
class TypeScript:
    """A client of the TypeScript SDK in a process of its own."""

    process: asyncio.subprocess.Process
    changes: asyncio.Queue[object] | None = field(default_factory=asyncio.Queue)
    answers: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    async def follow(self) -> None:
        assert self.process.stdout
        assert self.changes is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            await (self.answers if {"answer", "thrown"} & said.keys() else self.changes).put(said)

    async def ask(self, **words: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        return await self.answered()

    async def answered(self) -> dict[str, Any]:
        said = await asyncio.wait_for(self.answers.get(), LONGEST)
        assert "thrown" not in said, said
        return dict(said["answer"])

    async def tools(self) -> list[dict[str, Any]]:
        return list((await self.ask(call="list"))["tools"])

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self.ask(call="tool", name=name, arguments=arguments)


@dataclass
class Inspector:
    """The command line: a connection for each question."""

    command: list[str]
    env: dict[str, str]
    changes: asyncio.Queue[object] | None = None

    async def _ask(self, *arguments: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *self.command, *arguments, env=self.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, trouble = await asyncio.wait_for(process.communicate(), LONGEST)
        assert said, trouble.decode()
        return dict(json.loads(said))

    async def tools(self) -> list[dict[str, Any]]:
        return list((await self._ask("--method", "tools/list"))["tools"])

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        given = [word for key, one in arguments.items() for word in ("--tool-arg", f"{key}={_word(one)}")]
        return await self._ask("--method", "tools/call", "--tool-name", name, *given)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass
class Desk:
    """A running installation: where agents call, and a person who approves."""

    installation: Installation
    url: str
    token: str
    anna: Person

    @property
    def endpoint(self) -> str:
        return f"{self.url}/mcp/clock"


@pytest.fixture
def desk(installation: Installation) -> Iterator[Desk]:
    port = free_port()
    installation.environment["JITACCESS_EGRESS_ALLOW"] = "127.0.0.1/32"
    files = installation.var / "access.yaml"
    files.write_text(ACCESS)
    with http_server(sys.executable, "-m", "tests.sdk_server", str(port), port=port) as url:
        installation.cli("servers", "add", "clock", "--url", url)
        installation.cli("servers", "refresh", "clock")
        installation.cli("apply", "-f", str(files), "--yes")
        running = installation.up().url
        token = installation.ready_token
        yield Desk(installation, running, token, installation.sign_in("anna", running))
        installation.stop()


@contextlib.asynccontextmanager
async def official(desk: Desk, era: str) -> AsyncIterator[Peer]:
    async with connect(desk.url, desk.token, era=era, server="clock") as agent:
        yield Official(agent.client, agent.changes)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def typescript(desk: Desk, kind: str) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        peers.NODE, peers.TYPESCRIPT_CLIENT, kind, desk.endpoint,
        env={"PATH": os.environ["PATH"], "TOKEN": desk.token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    peer = TypeScript(process)
    follower = asyncio.create_task(peer.follow())
    try:
        assert "request_access" in (await peer.answered())["instructions"]
        yield peer
    finally:
        process.kill()
        await process.wait()
        await follower


@contextlib.asynccontextmanager
async def through_remote(desk: Desk) -> AsyncIterator[Peer]:
    """What a desktop client starts: mcp-remote on its standard input and output."""
    arguments = [peers.REMOTE, desk.endpoint, "--allow-http", "--transport", "http-only"]
    parameters = StdioServerParameters(
        command=peers.NODE,
        args=[*arguments, "--header", "Authorization:${AUTH}"],
        env={"PATH": os.environ["PATH"], "HOME": str(desk.installation.var), "AUTH": f"Bearer {desk.token}"},
    )
    changes: asyncio.Queue[object] = asyncio.Queue()

    async def on_message(message: Any) -> None:
        if getattr(message, "method", "").endswith("list_changed"):
            changes.put_nowait(message)

    with (desk.installation.var / "remote.log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode="legacy", message_handler=on_message) as client:
            yield Official(client, changes)


def inspector(desk: Desk) -> Inspector:
    command = [peers.NODE, peers.INSPECTOR, "--cli", desk.endpoint, "--transport", "http"]
    command += ["--header", f"Authorization: Bearer {desk.token}"]
    return Inspector(command, {"PATH": os.environ["PATH"], "HOME": str(desk.installation.var)})


@contextlib.asynccontextmanager
async def everybody(desk: Desk) -> AsyncIterator[dict[str, Peer]]:
    async with (
        official(desk, MODERN) as python_modern,
        official(desk, LEGACY) as python_legacy,
        typescript(desk, "v1") as v1,
        typescript(desk, "v2") as v2,
        typescript(desk, "v2-modern") as v2_modern,
        through_remote(desk) as remote,
    ):
        yield {
            "python, modern": python_modern,
            "python, legacy": python_legacy,
            "typescript v1": v1,
            "typescript v2": v2,
            "typescript v2, modern": v2_modern,
            "mcp-remote": remote,
            "inspector": inspector(desk),
        }


async def sees(peer: Peer, *, locked: bool) -> None:
    listed = await peer.tools()
    names = [tool["name"] for tool in listed]
    assert names == ["mend", "ring", *BUILT_IN]
    (mend, ring) = listed[:2]
    assert mend["description"].startswith(LOCKED) is locked
    assert mend["outputSchema"], "a refusal of a tool without one would be no test"
    assert not ring["description"].startswith(LOCKED)


def both_ways(peer: Peer) -> list[tuple[str, dict[str, Any]]]:
    """Directly, and as a client calls whose list is frozen. The Inspector has no list: once is enough of a process."""
    directly, frozen = ("mend", MEND), ("call_tool", {"name": "mend", "arguments": MEND})
    return [directly] if peer.changes is None else [directly, frozen]


async def is_refused(peer: Peer, reason: str) -> None:
    """A result with words for the model, and nothing that a schema could refuse."""
    for name, arguments in both_ways(peer):
        answer = await decided(peer, name, arguments)
        assert answer["isError"] is True
        assert "request_access" in answer["content"][0]["text"]
        assert not answer.get("structuredContent")
        assert answer["_meta"]["io.jitaccess/deny"]["reason_code"] == reason


async def decided(peer: Peer, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The answer of a gateway that can record. A clock that jumped may have ended its lease: until it has entered again
    it refuses everything, and says that this will pass.
    """
    until = asyncio.get_running_loop().time() + LONGEST
    while True:
        answer = await peer.call(name, arguments)
        passing = "cannot record calls right now" in answer["content"][0]["text"]
        if not passing or asyncio.get_running_loop().time() > until:
            return answer
        await asyncio.sleep(0.2)


async def works(peer: Peer) -> None:
    for name, arguments in both_ways(peer):
        answer = await peer.call(name, arguments)
        assert not answer.get("isError"), answer
        assert answer["content"][0]["text"] == "mended hand"
        assert answer["structuredContent"] == {"result": "mended hand"}


async def is_told(name: str, peer: Peer) -> None:
    if peer.changes is None:
        return
    try:
        said = await asyncio.wait_for(peer.changes.get(), LONGEST)
    except TimeoutError:
        raise AssertionError(f"{name} was not told") from None
    assert not isinstance(said, dict) or "changed" in said, said
    while not peer.changes.empty():
        peer.changes.get_nowait()  # told twice of one change is told


async def gets_access(desk: Desk, peer: Peer) -> str:
    """Asks, and Anna approves. Returns the id of the grant."""
    asked = await peer.call("request_access", {"tools": ["mend"], "reason": "The hand is bent", "minutes": 5})
    request = asked["structuredContent"]["request_id"]
    assert (await asyncio.to_thread(desk.anna.decide, request, "approve")).status_code == 200
    state = (await peer.call("check_request", {"request_id": request}))["structuredContent"]
    assert state["status"] == "approved"
    return str(state["grant"]["grant_id"])


def test_every_client_reads_a_refusal_is_told_of_a_grant_uses_it_and_is_told_of_its_end(desk: Desk) -> None:
    async def use() -> None:
        async with everybody(desk) as all_:

            async def each(do: Any) -> None:
                await asyncio.gather(*(do(peer) for peer in all_.values()))

            async def told() -> None:
                await asyncio.gather(*(is_told(name, peer) for name, peer in all_.items()))

            await each(lambda peer: sees(peer, locked=True))
            await each(lambda peer: is_refused(peer, "no_binding"))

            await gets_access(desk, all_["typescript v1"])
            await told()
            await each(lambda peer: sees(peer, locked=False))
            await each(works)
            desk.installation.shift_clock(301)
            await told()
            await each(lambda peer: sees(peer, locked=True))
            await each(lambda peer: is_refused(peer, "expired"))

            grant = await gets_access(desk, all_["python, modern"])
            await told()
            await each(works)
            await all_["typescript v2, modern"].call("release_access", {"grant_id": grant})
            await told()
            await each(lambda peer: is_refused(peer, "revoked"))

    asyncio.run(use())
    mended = [row for row in desk.installation.ledger("call.completed") if row["tool"] == "mend"]
    assert len(mended) == 2 * (6 * 2 + 1), "each use, by either name, is on record as what was called"
    assert {row["server_name"] for row in mended} == {"clock"}
    refused = [row["data"]["reason_code"] for row in desk.installation.ledger("call.denied")]
    assert list(dict.fromkeys(refused)) == ["no_binding", "expired", "revoked"]
    assert not desk.installation.ledger("call.failed", "call.outcome_unknown")
