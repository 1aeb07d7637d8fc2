from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jitaccess.gateway.upstream import process, stdio
from jitaccess.gateway.upstream.asked import Told
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.upstream.stdio import StdioConnection

from .conftest import Run, call, fake, said, until


def with_server(run: Run, work: Callable[[StdioConnection], Awaitable[Any]], *args: str, **changes: Any) -> Any:
    async def wrapped() -> Any:
        connection = await StdioConnection.open(fake(*args, **changes))
        try:
            return await work(connection)
        finally:
            await connection.close()
            assert connection.pending == 0

    return run(wrapped())


async def failure(awaitable: Awaitable[Any]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await awaitable
    return caught.value


def test_a_server_that_dies_in_mid_call_fails_every_pending_call_as_sent(run: Run) -> None:
    async def work(connection: StdioConnection) -> None:
        bystander = asyncio.create_task(failure(call(connection, "never")))
        await until(lambda: connection.pending)
        errors = [await failure(call(connection, "die")), await bystander]
        assert [(error.code, error.sent) for error in errors] == [("upstream.died", True)] * 2
        assert errors[0] is not errors[1]
        assert not connection.alive
        late = await failure(call(connection, "echo"))
        assert (late.code, late.sent) == ("upstream.unavailable", False)

    with_server(run, work)


def test_the_last_answer_of_a_server_that_ends_is_not_lost(run: Run) -> None:
    assert with_server(run, lambda connection: call(connection, "answer_and_die")) == "last words"


def test_a_call_without_answer_times_out_and_is_cancelled_at_the_server(run: Run) -> None:
    async def work(connection: StdioConnection) -> Any:
        error = await failure(call(connection, "never", timeout=0.2))
        assert (error.code, error.sent) == ("upstream.timeout", True)
        return await call(connection, "cancelled")

    [notice] = with_server(run, work)
    assert isinstance(notice["requestId"], int)
    assert notice["reason"] == "timeout"


def test_cancelling_the_task_cancels_at_the_server_and_is_not_swallowed(run: Run) -> None:
    async def work(connection: StdioConnection) -> Any:
        task = asyncio.create_task(call(connection, "never"))
        await until(lambda: connection.pending)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.pending == 0
        return await call(connection, "cancelled")

    assert [notice["reason"] for notice in with_server(run, work)] == ["the caller went away"]


def test_an_answered_call_is_never_cancelled(run: Run) -> None:
    async def work(connection: StdioConnection) -> Any:
        await call(connection, "echo")
        return await call(connection, "cancelled")

    assert with_server(run, work) == []


def test_the_error_of_the_server_arrives_as_it_was_written(run: Run) -> None:
    async def work(connection: StdioConnection) -> None:
        with pytest.raises(RemoteError) as caught:
            await call(connection, "refuse")
        error = caught.value
        assert (error.rpc_code, error.message, error.data) == (-32602, "Unknown tool", {"reason": "gone"})
        assert connection.alive

    with_server(run, work)


def test_lines_that_are_not_mcp_are_ignored(run: Run) -> None:
    assert with_server(run, lambda connection: call(connection, "garbage")) == "after garbage"


def test_garbage_without_end_ends_the_connection(run: Run) -> None:
    async def work(connection: StdioConnection) -> None:
        assert await call(connection, "flood", lines=stdio.MAX_GARBAGE_LINES - 1) == "after the flood"
        assert await call(connection, "flood", lines=stdio.MAX_GARBAGE_LINES - 1) == "after the flood"
        error = await failure(call(connection, "flood", lines=stdio.MAX_GARBAGE_LINES))
        assert (error.code, error.sent) == ("upstream.died", True)
        assert not connection.alive

    with_server(run, work)


def test_an_answer_over_the_size_cap_fails_its_own_call_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_LINE_BYTES", 1 << 20)

    async def work(connection: StdioConnection) -> None:
        bystander = asyncio.create_task(call(connection, "never", timeout=1))
        error = await failure(call(connection, "huge", bytes=3 << 20))
        assert (error.code, error.sent) == ("upstream.invalid_response", True)
        fitting = await connection.request("tools/call", {"name": "huge", "arguments": {"bytes": 1000_000}}, timeout=10)
        assert fitting == {"a": "x" * 1000_000}
        assert (await failure(bystander)).code == "upstream.timeout"

    with_server(run, work)


def test_answers_with_wrong_ids_and_second_answers_are_ignored(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def work(connection: StdioConnection) -> None:
        assert await call(connection, "ids") == "right"
        assert await call(connection, "ids") == "right"

    with_server(run, work)
    assert "could not be handled" not in caplog.text


@pytest.mark.parametrize("kind", ["list", "both", "neither", "code", "nan", "twice", "id_last", "unknown_type"])
def test_an_answer_of_the_wrong_shape_fails_the_call_at_once(run: Run, kind: str) -> None:
    async def work(connection: StdioConnection) -> None:
        error = await failure(call(connection, "shape", kind=kind))
        assert (error.code, error.sent) == ("upstream.invalid_response", True)
        assert await call(connection, "cancelled") == []

    with_server(run, work)


def test_a_legacy_server_that_asks_the_client_is_refused_at_once_and_its_ping_answered(run: Run) -> None:
    replies = with_server(run, lambda connection: call(connection, "ask"), "legacy")
    assert [reply["id"] for reply in replies] == ["s0", "s1", "s2", "s3"]
    assert [reply["error"]["code"] for reply in replies[:3]] == [-32601] * 3
    assert replies[3]["result"] == {}


def test_a_modern_server_that_asks_the_client_is_never_sent_a_response(run: Run) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def work() -> Any:
        connection = await StdioConnection.open(fake(), on_notification=lambda _, params: heard.put_nowait(params))
        try:
            # The server takes the next four lines for its answers: one notice and three calls of ours.
            assert (await failure(call(connection, "ask", timeout=0.2))).code == "upstream.timeout"
            calls = [asyncio.create_task(failure(call(connection, "echo", timeout=0.2))) for _ in range(3)]
            await asyncio.gather(*calls)
            return (await heard.get())["data"]
        finally:
            await connection.close()

    lines = run(work())
    assert [line["method"] for line in lines] == ["notifications/cancelled", *["tools/call"] * 3]


def test_input_required_is_returned_as_it_is(run: Run) -> None:
    result = with_server(run, lambda connection: connection.request("tools/call", {"name": "input"}, timeout=5))
    assert result == {"resultType": "input_required", "inputRequests": {"a": {}}, "requestState": "opaque"}


def test_progress_reaches_only_the_call_that_asked_for_it_under_a_token_of_ours(run: Run) -> None:
    seen: list[Any] = []
    other: list[Any] = []

    async def work() -> Any:
        connection = await StdioConnection.open(fake(), on_notification=lambda *event: other.append(event))
        try:
            params: Any = {"name": "progress", "_meta": {"progressToken": "the client's"}}
            return said(await connection.request("tools/call", params, timeout=5, told=Told(progress=seen.append)))
        finally:
            await connection.close()

    token = run(work())
    assert [(params["progress"], params["x-unknown"]) for params in seen] == [(1, 1), (2, 1)]
    assert isinstance(token, int)
    assert other == []


def test_without_a_listener_the_progress_token_of_the_client_is_not_passed_on(run: Run) -> None:
    async def work(connection: StdioConnection) -> Any:
        params: Any = {"name": "echo", "_meta": {"progressToken": "the client's", "kept": 1}}
        return said(await connection.request("tools/call", params, timeout=5))

    assert with_server(run, work, "legacy")["_meta"] == {"kept": 1}


def test_a_callback_that_fails_does_not_harm_the_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> Any:
        connection = await StdioConnection.open(fake("legacy"), on_notification=lambda *_: 1 / 0)  # type: ignore[arg-type,func-returns-value]
        try:
            return await call(connection, "change")
        finally:
            await connection.close()

    assert run(work()) == 0
    assert "could not be handled" in caplog.text


def test_a_server_that_stops_reading_blocks_nobody_and_is_refused_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_BACKLOG_BYTES", 1 << 20)

    async def work(connection: StdioConnection) -> None:
        await call(connection, "deaf")
        big = "x" * (2 << 20)
        stuck = asyncio.create_task(failure(call(connection, "echo", timeout=1, big=big)))
        await until(lambda: connection.pending)
        refused = await failure(call(connection, "echo", big=big))
        assert (refused.code, refused.sent) == ("upstream.busy", False)
        other = await StdioConnection.open(fake())
        assert (await call(other, "echo"))["name"] == "echo"
        await other.close()
        late = await stuck
        assert (late.code, late.sent) == ("upstream.timeout", True)

    with_server(run, work)


def test_more_calls_than_the_cap_are_refused_before_they_are_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "MAX_PENDING", 3)

    async def work(connection: StdioConnection) -> None:
        tasks = [asyncio.create_task(failure(call(connection, "never"))) for _ in range(3)]
        await until(lambda: connection.pending == 3)
        error = await failure(call(connection, "echo"))
        assert (error.code, error.sent) == ("upstream.busy", False)
        await connection.close()
        assert {(error.code, error.sent) for error in await asyncio.gather(*tasks)} == {("upstream.cancelled", True)}

    with_server(run, work)


def test_a_large_answer_is_read_in_a_thread_and_whatever_follows_comes_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SETTLE_SECONDS", 0.1)
    gate, readers, real = threading.Event(), [], stdio._decoded

    def held_up(line: bytes) -> Any:
        if len(line) > stdio.LARGE_ANSWER:
            readers.append(threading.current_thread())
            assert gate.wait(10)
        return real(line)

    monkeypatch.setattr(stdio, "_decoded", held_up)

    def huge(connection: StdioConnection, **more: Any) -> asyncio.Task[Any]:
        params = {"name": "huge", "arguments": {"bytes": 1_000_000, **more}}
        return asyncio.create_task(connection.request("tools/call", params, timeout=10))

    async def work(connection: StdioConnection) -> None:
        order: list[str] = []
        large, small = huge(connection), asyncio.create_task(call(connection, "echo"))
        for task, name in ((small, "small"), (large, "large")):
            task.add_done_callback(lambda _, name=name: order.append(name))
        await until(lambda: readers)
        other = await StdioConnection.open(fake())
        assert await call(other, "echo"), "nobody else waits for it"
        await other.close()
        assert not small.done()
        gate.set()
        await asyncio.gather(large, small)
        assert order == ["large", "small"]
        gate.clear()
        last = huge(connection, die=True)
        await until(lambda: connection._over)
        assert connection.alive
        gate.set()
        assert await last == {"a": "x" * 1_000_000}
        await until(lambda: not connection.alive)
        assert threading.main_thread() not in readers

    with_server(run, work)


def test_stderr_is_drained_capped_and_logged_harmlessly(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jitaccess.gateway.upstream")
    assert with_server(run, lambda connection: call(connection, "stderr")) == "was not blocked"
    logged = "".join(record.getMessage() for record in caplog.records if "stderr" in record.getMessage())
    assert "noise" in logged
    assert "\x1b" not in logged
    assert len(logged) < 4 * process.MAX_STDERR_BYTES


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (fake("modern", "--exit"), "exit status 7"),
        (fake(command="/nonexistent/program"), "could not be run"),
        (fake(cwd="/nonexistent"), "No such file or directory"),
        (fake("modern", "--mute", start_timeout=0.5), "within 0.5 seconds"),
    ],
)
def test_a_server_that_cannot_be_greeted_is_unavailable_and_nothing_was_sent(
    run: Run, server: Any, message: str
) -> None:
    error = run(failure(StdioConnection.open(server)))
    assert (error.code, error.sent) == ("upstream.unavailable", False)
    assert message in error.detail


def test_a_request_that_cannot_be_encoded_is_refused_and_forgotten(run: Run) -> None:
    async def work(connection: StdioConnection) -> None:
        with pytest.raises(Exception, match="surrogate"):
            await call(connection, "echo", text="\ud800")
        assert connection.pending == 0
        assert (await call(connection, "echo"))["name"] == "echo"

    with_server(run, work)
