"""Against the reference git server, in both eras and on both event loops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import uvloop

from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.errors import RemoteError
from jitaccess.gateway.upstream.stdio import StdioConnection

from .conftest import watched


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "the first commit"]):
        subprocess.run(["git", "-C", str(path), *arguments], check=True)
    (path / "new.txt").write_text("x")
    return path


@pytest.mark.parametrize(
    ("setting", "era"), [("auto", "2026-07-28"), ("modern", "2026-07-28"), ("legacy", "2025-11-25")]
)
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_git_server_works_in_both_eras(
    repository: Path, loop_factory: Any, setting: Literal["auto", "modern", "legacy"], era: str
) -> None:
    server = StdioServer("git", sys.executable, ("-m", "mcp_server_git"), {}, str(repository), setting)

    async def work() -> None:
        connection = await StdioConnection.open(server, on_notification=lambda *_: None)
        try:
            assert connection.era == era
            assert connection.server_info["name"] == "mcp-git"
            names = {tool["name"] for tool in await connection.list_tools()}
            assert {"git_status", "git_log", "git_commit"} <= names
            status, log = await asyncio.gather(_call(connection, "git_status"), _call(connection, "git_log"))
            assert "new.txt" in status["content"][0]["text"]
            assert "the first commit" in log["content"][0]["text"]
            assert (await _call(connection, "git_show", revision="nothing"))["isError"] is True
            with pytest.raises(RemoteError) as caught:
                await connection.request("no/such/method", {}, timeout=10)
            assert caught.value.rpc_code == -32601
        finally:
            await connection.close()

    async def _call(connection: StdioConnection, name: str, **arguments: str) -> Any:
        params: Any = {"name": name, "arguments": {"repo_path": str(repository), **arguments}}
        return await connection.request("tools/call", params, timeout=20)

    with asyncio.Runner(loop_factory=loop_factory) as loop_runner:
        watched(loop_runner, work())
