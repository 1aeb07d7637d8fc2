"""Against a server made with the official Python SDK, in both eras and both forms of answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitaccess.gateway.upstream.asked import Told
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.gateway.upstream.http import HttpConnection
from tests.nursery import command

from .conftest import Run
from .web_server import MODERN, call, clients

PROGRAM = str(Path(__file__).with_name("sdk_server.py"))


@pytest.fixture(scope="module", params=["--json", "--stream"])
def url(request: Any) -> Iterator[str]:
    with subprocess.Popen(command(PROGRAM, request.param), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.mark.parametrize(
    ("era", "spoken"),
    [("auto", MODERN), ("modern", MODERN), ("legacy", "2025-11-25")],
    ids=["auto", "modern", "legacy"],
)
def test_tools_are_listed_and_called(run: Run, url: str, era: Any, spoken: str) -> None:
    async def work() -> None:
        headers = {"Authorization": "Bearer up"}
        async with clients() as client:
            connection = await HttpConnection.open(HttpServer("sdk", url, headers, era), client=client)
            assert connection.era == spoken
            assert connection.server_info["name"] == "sdk"
            assert connection.instructions == "be kind"
            tools = await connection.list_tools()
            assert [tool["name"] for tool in tools] == ["add", "whoami", "slow", "fail"]
            for number in range(3):
                assert (await call(connection, "add", a=number, b=1))["structuredContent"] == {"result": number + 1}
            assert (await call(connection, "whoami"))["content"][0]["text"] == "Bearer up"
            failed = await call(connection, "fail")
            assert failed["isError"] is True
            progress: list[Any] = []
            params: Any = {"name": "slow", "arguments": {}}
            answer = await connection.request("tools/call", params, timeout=5, told=Told(progress=progress.append))
            assert answer["content"] == [{"type": "text", "text": "done"}]
            assert progress == [] or [one["progress"] for one in progress] == [1, 2]
            await connection.close()

    run(work())
