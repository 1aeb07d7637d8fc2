"""The official client through the gateway to the official server, each in either era: told and asked in mid-call."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from jitaccess.gateway.upstream.config import HttpServer, StdioServer
from tests.cast import Cast
from tests.gateway.harness import MODERN, Served, data, eventually, ledger, settled, told
from tests.nursery import command

pytestmark = pytest.mark.django_db(transaction=True)

PROGRAM = str(Path(__file__).with_name("asking_server.py"))
ERAS = ("modern", "legacy")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The official server over HTTP."""
    with subprocess.Popen(
        command(PROGRAM, "http"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        process.kill()


@dataclass
class Heard:
    """What one client was told and asked."""

    progress: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answer: str = "accept"

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append((params.level, params.data))

    async def on_elicit(self, _: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params.message)
        return types.ElicitResult(action=self.answer, content={"name": "olga"} if self.answer == "accept" else None)

    async def on_sample(self, _: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="ding"), model="m"
        )

    async def on_roots(self, _: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///tmp")])


@contextlib.asynccontextmanager
async def connected(
    served: Served, token: str, heard: Heard, era: str, *, asks: bool = True
) -> AsyncIterator[SdkClient]:
    options: dict[str, Any] = {"logging_callback": heard.on_log}
    if asks:
        options |= {
            "elicitation_callback": heard.on_elicit,
            "sampling_callback": heard.on_sample,
            "list_roots_callback": heard.on_roots,
        }
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        SdkClient(
            streamable_http_client(f"{served.url}/mcp/git", http_client=http),
            mode=MODERN if era == "modern" else "legacy",
            **options,
        ) as client,
    ):
        yield client


@pytest.fixture
def served(start: Callable[..., Served], url: str, settings: Any, request: Any) -> Served:
    """A gateway before the official server in the era of the parameter, as "git"."""
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    how, era = request.param
    if how == "http":
        return start({"git": HttpServer("git", url, MappingProxyType({}), era)})
    program, *arguments = command(PROGRAM, "stdio")
    return start({"git": StdioServer("git", program, tuple(arguments), MappingProxyType({}), None, era)})


def run(served: Served, cast: Cast, era: str, work: Callable[[SdkClient, Heard], Any], **options: Any) -> Heard:
    heard = Heard(**{name: options.pop(name) for name in ("answer",) if name in options})
    with served.client(cast) as agent:
        token = agent.token

    async def main() -> None:
        async with asyncio.timeout(20), connected(served, token, heard, era, **options) as client:
            await work(client, heard)

    asyncio.run(main())
    return heard


def nothing_is_left(served: Served) -> bool:
    gateway = served.gateway
    pending = sum(slot.connection.pending for slot in gateway.pool._slots.values() if slot.connection)
    return not (pending or gateway.in_flight or len(gateway.parked) or len(gateway.questions) or len(gateway.calls))


ALL = [("http", "modern"), ("http", "legacy"), ("stdio", "modern"), ("stdio", "legacy")]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("served", ALL, indirect=True, ids="-".join)
def test_a_server_asks_a_client_of_either_era_in_the_middle_of_a_call(served: Served, cast: Cast, era: str) -> None:
    async def work(client: SdkClient, heard: Heard) -> None:
        for do, said in (("elicit", "done for olga"), ("sample", "sampled ding"), ("roots", "roots file:///tmp")):
            result = await client.call_tool("git_log", {"do": do})
            assert (result.content[0].text, bool(result.is_error)) == (said, False)

    heard = run(served, cast, era, work)
    assert heard.asked == ["Who are you?", "Say something", "roots"]
    assert eventually(settled)
    assert nothing_is_left(served)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("served", ALL[:2], indirect=True, ids="-".join)
def test_a_client_is_told_of_progress_and_of_the_log_as_it_asked(served: Served, cast: Cast, era: str) -> None:
    async def work(client: SdkClient, heard: Heard) -> None:
        meta = {"io.modelcontextprotocol/logLevel": "warning"} if era == "modern" else None
        await client.call_tool("git_log", {"do": "tell"}, progress_callback=heard.on_progress, meta=meta)
        assert heard.progress == [(1.0, 2.0, "step 1"), (2.0, 2.0, "step 2")]
        # An older client that set no level gets what an older server sends; a newer server was not asked for anything.
        all_of_it = [("debug", "a debug"), ("warning", "a warning")]
        older = all_of_it if served.gateway.pool._eras["git"][1] == "legacy" else []
        assert heard.logs == (all_of_it[1:] if era == "modern" else older)

    run(served, cast, era, work)
    assert nothing_is_left(served)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("served", ALL[:2], indirect=True, ids="-".join)
def test_a_client_that_gives_up_stops_the_call_at_the_server(served: Served, cast: Cast, era: str) -> None:
    async def work(client: SdkClient, heard: Heard) -> None:
        begun = asyncio.Event()

        async def on_progress(*_: Any) -> None:
            begun.set()

        call = asyncio.create_task(client.call_tool("git_log", {"do": "wait"}, progress_callback=on_progress))
        await begun.wait()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        while (await client.call_tool("git_log", {"do": "stopped"})).content[0].text == "":
            await asyncio.sleep(0.02)

    run(served, cast, era, work)
    assert eventually(settled)
    assert "call.outcome_unknown" in told()
    assert nothing_is_left(served)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("served", ALL[:2], indirect=True, ids="-".join)
def test_what_a_client_did_not_declare_is_never_announced_and_the_call_fails_clearly(
    served: Served, cast: Cast, era: str
) -> None:
    async def work(client: SdkClient, heard: Heard) -> None:
        try:
            result = await client.call_tool("git_log", {"do": "elicit"})
        except MCPError as error:
            assert error.code == -32021 or "elicitation" in str(error).lower()
        else:
            assert result.is_error, result

    heard = run(served, cast, era, work, asks=False)
    assert heard.asked == []
    assert eventually(settled)
    assert nothing_is_left(served)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("served", ALL[:2], indirect=True, ids="-".join)
def test_a_call_of_several_rounds_is_one_use(served: Served, cast: Cast, era: str) -> None:
    cast.limited(1)

    async def work(client: SdkClient, heard: Heard) -> None:
        result = await client.call_tool("git_commit", {"do": "elicit"})
        assert result.content[0].text == "committed by olga"
        assert (await client.call_tool("git_commit", {"do": "elicit"})).is_error

    heard = run(served, cast, era, work)
    assert heard.asked == ["Who are you?"]
    rounds = ledger("call.authorized")
    assert len(rounds) == (1 if (era, served.gateway.pool._eras["git"][1]) == ("legacy", "legacy") else 2)
    assert all(data(entry)["continues"] == str(rounds[0].call) for entry in rounds[1:])
    assert eventually(settled)
