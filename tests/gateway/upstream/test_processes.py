"""What is left on the machine: nothing, however the connection ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.stdio import StdioConnection

from .conftest import Run, call, children, eventually, fake, is_gone, session_members, until, watched

HOSTILE = ("--ignore-term", "--stay")


async def _spawned(connection: StdioConnection) -> list[int]:
    """The keeper, the server, a child in its group and a daemon in a session of its own; both ignore SIGTERM."""
    assert connection.pid is not None
    pids = [connection.pid, *await call(connection, "spawn")]
    assert not any(map(is_gone, pids))
    assert len(session_members(connection.pid)) == 3
    return pids


@pytest.mark.parametrize(
    ("loop_factory", "options"),
    [(asyncio.new_event_loop, ()), (uvloop.new_event_loop, ()), (uvloop.new_event_loop, HOSTILE)],
)
def test_no_process_is_left_after_close(loop_factory: Any, options: tuple[str, ...]) -> None:
    async def work() -> list[int]:
        connection = await StdioConnection.open(fake("modern", *options))
        pids = await _spawned(connection)
        await connection.close()
        assert all(map(is_gone, pids))
        assert not session_members(pids[0])
        await connection.close()
        return pids

    with asyncio.Runner(loop_factory=loop_factory) as loop_runner:
        assert len(watched(loop_runner, work())) == 4


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_process_is_left_after_the_server_died(loop_factory: Any) -> None:
    async def work() -> None:
        connection = await StdioConnection.open(fake())
        pids = await _spawned(connection)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(UpstreamError) as caught:
            await call(connection, "never")
        assert caught.value.code in ("upstream.died", "upstream.unavailable")
        await connection.close()
        assert all(map(is_gone, pids))

    with asyncio.Runner(loop_factory=loop_factory) as loop_runner:
        watched(loop_runner, work())


def test_the_server_does_not_outlive_its_keeper(run: Run) -> None:
    async def work() -> None:
        connection = await StdioConnection.open(fake("modern", *HOSTILE))
        assert connection.pid is not None
        server = (await call(connection, "environment"))[6]  # its group id is its process id
        os.kill(connection.pid, signal.SIGKILL)
        with pytest.raises(UpstreamError):
            await call(connection, "never")
        await connection.close()
        assert is_gone(connection.pid)
        assert eventually(lambda: is_gone(server))

    run(work())


OWNER = """
import asyncio, sys
from tests.gateway.upstream.conftest import fake
from tests.gateway.upstream.test_processes import _spawned
from jitaccess.gateway.upstream.stdio import StdioConnection

async def main():
    connection = await StdioConnection.open(fake("modern", *sys.argv[1:]))
    print(*await _spawned(connection), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("options", [(), HOSTILE])
def test_no_process_is_left_when_the_gateway_is_killed_with_sigkill(options: tuple[str, ...]) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, *options], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 4
        assert not any(map(is_gone, pids))
        owner.kill()
    assert eventually(lambda: all(map(is_gone, pids)))
    assert not session_members(pids[0])


@pytest.mark.parametrize("options", [("--exit",), ("--mute", *HOSTILE)])
def test_no_process_is_left_after_a_failed_start(run: Run, options: tuple[str, ...]) -> None:
    async def work() -> None:
        with pytest.raises(UpstreamError):
            await StdioConnection.open(fake("modern", *options, start_timeout=1))

    run(work())
    assert children() == []


def test_a_cancelled_start_leaves_no_process(run: Run) -> None:
    async def work() -> None:
        task = asyncio.create_task(StdioConnection.open(fake("modern", "--mute")))
        await until(children)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == []

    run(work())


def _descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def test_no_descriptor_is_left_after_close(run: Run) -> None:
    async def work() -> None:
        before = len(_descriptors())
        for server in (fake(), fake("modern", "--exit"), fake(cwd="/nonexistent")):
            try:
                connection = await StdioConnection.open(server)
            except UpstreamError:
                continue
            await call(connection, "echo")
            await connection.close()
        await asyncio.sleep(0)
        assert len(_descriptors()) <= before

    async def warmed() -> None:
        await (await StdioConnection.open(fake())).close()  # the child watcher keeps its own descriptors
        await work()

    run(warmed())


def test_the_server_gets_a_minimal_environment_and_nothing_of_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JITACCESS_SECRET_KEY", "s3cret")
    monkeypatch.setenv("PYTHONPATH", "/nonexistent/ours")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    secret = tmp_path / "secret"
    secret.write_text("s3cret")

    async def work() -> Any:
        with secret.open() as handle:
            os.set_inheritable(handle.fileno(), True)
            server = fake(env={"TOKEN": "its own", "HOME": "/its/home"}, cwd=str(tmp_path))
            connection = await StdioConnection.open(server)
            try:
                return connection.pid, await call(connection, "environment")
            finally:
                await connection.close()

    pid, (environment, directory, core, streams, sigpipe, session, group) = run(work())
    allowed = {"PATH", "HOME", "LANG", "TMPDIR", "TOKEN", "LC_CTYPE"}  # LC_CTYPE: set by the server's own Python
    assert set(environment) <= allowed
    assert (environment["TOKEN"], environment["HOME"]) == ("its own", "/its/home")
    assert (environment["TMPDIR"], directory) == (str(tmp_path), str(tmp_path))
    assert core == [0, 0]
    assert not any("secret" in target or "pipe" in target for target in streams)
    assert sigpipe == "SIG_IGN"  # Python ignores it for itself; the keeper gave it the default
    assert session == pid != os.getsid(0)
    assert group not in (pid, os.getpgid(0))


def test_arguments_are_never_read_by_a_shell(run: Run, tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    async def work() -> None:
        connection = await StdioConnection.open(fake("modern", f"; touch {trap}", f"$(touch {trap})", "`x`", "a b"))
        await connection.close()

    run(work())
    assert not trap.exists()


@pytest.fixture
def many_files() -> Iterator[int]:
    """A process that has more files open than select() can name, as a gateway with many streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
    yield hard
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_starts_and_ends_however_many_files_the_gateway_has_open(run: Run, many_files: int) -> None:
    async def work() -> None:
        connection = await StdioConnection.open(fake("modern", *HOSTILE))
        _, _, files = await call(connection, "limits")
        assert files == [1024, many_files], "of its own, not those that the gateway raised for itself"
        pids = await _spawned(connection)
        await connection.close()
        assert all(map(is_gone, pids))

    run(work())


def test_a_server_has_the_limits_that_the_operator_gave_it(run: Run) -> None:
    async def work() -> Any:
        limits = {"memory_mb": 900, "cpu_seconds": 60, "open_files": 100}
        connection = await StdioConnection.open(fake(limits=limits))
        try:
            return await call(connection, "limits")
        finally:
            await connection.close()

    assert run(work()) == [[900 << 20, 900 << 20], [60, 65], [100, 100]]


def test_a_server_that_takes_more_than_its_time_is_ended_and_said_so(run: Run) -> None:
    async def work() -> None:
        connection = await StdioConnection.open(fake(limits={"cpu_seconds": 1}))
        with pytest.raises(UpstreamError, match=r"signal|exit status"):
            await call(connection, "spin")
        await connection.close()

    run(work())
