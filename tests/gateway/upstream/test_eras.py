from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitaccess.gateway.upstream import handshake
from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.stdio import StdioConnection

from .conftest import Run, call, fake, said

META = "io.modelcontextprotocol/"


async def _seen(era: str, *options: str, setting: str = "auto", **meta: Any) -> tuple[StdioConnection, Any]:
    """Return the closed connection and the params which the server got."""
    connection = await StdioConnection.open(fake(era, *options, era=setting))
    try:
        params = {"name": "echo", "arguments": {"a": 1}, "_meta": meta} if meta else {"name": "echo"}
        result: Any = await connection.request("tools/call", params, timeout=10)
        assert result["content"][0]["x-unknown"] == [1]
        return connection, said(result)
    finally:
        await connection.close()


@pytest.mark.parametrize("setting", ["auto", "modern"])
def test_a_modern_server_is_discovered_and_gets_the_meta_of_its_era_on_each_request(run: Run, setting: str) -> None:
    connection, params = run(_seen("modern", setting=setting, traceparent="00-1"))
    assert connection.era == "2026-07-28"
    assert connection.server_info == {"name": "fake", "version": "1"}
    assert connection.capabilities["x-unknown"] == {"kept": True}
    assert connection.instructions == "be kind"
    meta = params["_meta"]
    assert meta.pop(META + "clientInfo")["name"] == "jitaccess"
    assert meta == {
        META + "protocolVersion": "2026-07-28",
        META + "clientCapabilities": {},
        "traceparent": "00-1",
    }


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"])
@pytest.mark.parametrize("setting", ["auto", "legacy"])
def test_a_legacy_server_is_initialized_and_gets_no_modern_meta(run: Run, setting: str, version: str) -> None:
    meta = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {"sampling": {}}, "traceparent": "1"}
    connection, params = run(_seen(version, setting=setting, **meta))
    assert connection.era == version
    assert connection.server_info == {"name": "fake", "version": "1", "x-unknown": 1}
    assert connection.instructions is None
    assert params["_meta"] == {"traceparent": "1"}


def test_a_request_without_meta_stays_without_it_for_a_legacy_server(run: Run) -> None:
    assert run(_seen("legacy"))[1] == {"name": "echo"}


def test_the_caller_decides_capabilities_but_never_version_or_identity(run: Run) -> None:
    forged = {
        META + "protocolVersion": "1999-01-01",
        META + "clientInfo": {"name": "somebody"},
        META + "clientCapabilities": {"elicitation": {"form": {}}},
    }
    meta = run(_seen("modern", **forged))[1]["_meta"]
    assert meta[META + "protocolVersion"] == "2026-07-28"
    assert meta[META + "clientInfo"]["name"] == "jitaccess"
    assert meta[META + "clientCapabilities"] == {"elicitation": {"form": {}}}


def test_a_legacy_server_that_ignores_the_probe_is_initialized_on_the_same_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PROBE_SECONDS", 0.3)
    assert run(_seen("silent"))[0].era == "2025-11-25"


def test_a_legacy_server_that_ends_on_the_probe_is_started_again_and_initialized(run: Run) -> None:
    assert run(_seen("fragile"))[0].era == "2025-11-25"


def test_a_modern_server_that_is_slow_to_answer_the_probe_is_still_modern(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PROBE_SECONDS", 0.3)
    assert run(_seen("late"))[0].era == "2026-07-28"


def test_a_modern_server_of_another_version_is_refused_and_never_initialized(run: Run) -> None:
    with pytest.raises(UpstreamError, match="2027-01-01") as caught:
        run(StdioConnection.open(fake("modern", "--future")))
    assert (caught.value.code, caught.value.sent) == ("upstream.unavailable", False)


@pytest.mark.parametrize(
    ("era", "setting", "message"),
    [("legacy", "modern", "Invalid request parameters"), ("modern", "legacy", "Method not found")],
)
def test_a_forced_era_does_not_fall_back_to_the_other(run: Run, era: str, setting: str, message: str) -> None:
    with pytest.raises(UpstreamError, match=message) as caught:
        run(StdioConnection.open(fake(era, era=setting)))
    assert (caught.value.code, caught.value.sent) == ("upstream.unavailable", False)


def test_a_legacy_server_of_an_unknown_version_is_refused(run: Run) -> None:
    with pytest.raises(UpstreamError, match="2099-01-01") as caught:
        run(StdioConnection.open(fake("2099-01-01")))
    assert caught.value.code == "upstream.unavailable"


def test_tools_of_all_pages_are_listed_with_their_unknown_fields(run: Run) -> None:
    async def work(era: str) -> list[Any]:
        connection = await StdioConnection.open(fake(era))
        try:
            return await connection.list_tools()
        finally:
            await connection.close()

    for era in ("modern", "legacy"):
        tools = run(work(era))
        assert [tool["name"] for tool in tools] == [f"t{page}-{n}" for page in range(3) for n in range(3)]
        assert [tool["x-unknown"] for tool in tools] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("option", "problem"),
    [("--endless", "100 pages"), ("--loop", "comes twice"), ("--tools=1001", "1000 tools")],
)
def test_a_tool_list_without_end_is_refused_as_a_whole(run: Run, option: str, problem: str) -> None:
    async def work() -> None:
        connection = await StdioConnection.open(fake("modern", option))
        try:
            await connection.list_tools()
        finally:
            await connection.close()

    with pytest.raises(UpstreamError, match=problem) as caught:
        run(work())
    assert caught.value.code == "upstream.invalid_response"


def test_list_changed_of_a_modern_server_arrives_because_it_is_subscribed_to(run: Run) -> None:
    heard: list[tuple[str, Any]] = []

    async def work(era: str) -> Any:
        connection = await StdioConnection.open(
            fake(era), on_notification=lambda method, params: heard.append((method, params))
        )
        try:
            assert connection.pending == 0
            return await call(connection, "change")
        finally:
            await connection.close()

    assert run(work("modern")) == 1
    assert [method for method, _ in heard] == ["notifications/tools/list_changed"]
    heard.clear()
    assert run(work("legacy")) == 0
    assert heard == [("notifications/tools/list_changed", {})]


def test_two_loops_can_be_used_one_after_the_other(run: Run) -> None:
    async def work() -> Any:
        connection = await StdioConnection.open(fake())
        results = await asyncio.gather(*(call(connection, "echo") for _ in range(20)))
        await connection.close()
        return results

    assert len(run(work())) == len(run(work())) == 20
