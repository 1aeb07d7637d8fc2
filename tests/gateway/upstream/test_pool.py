from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitaccess.gateway.upstream import pool as pool_module
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.pool import Pool
from jitaccess.gateway.upstream.stdio import StdioConnection

from .conftest import Run, call, children, fake, is_gone, until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def refusal(pool: Pool, slug: str, principal: str) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await pool.connection(slug, principal)
    assert caught.value.sent is False
    return caught.value


def test_concurrent_callers_of_one_principal_share_one_start_and_others_get_their_own(run: Run) -> None:
    async def work() -> None:
        pool = Pool({"git": fake()}.get)
        alice, again, bob = await asyncio.gather(*(pool.connection("git", who) for who in ("alice", "alice", "bob")))
        assert alice is again is await pool.connection("git", "alice")
        assert alice is not bob
        assert alice.pid != bob.pid
        await pool.close()
        assert is_gone(alice.pid or 0)
        assert is_gone(bob.pid or 0)
        assert (await refusal(pool, "git", "alice")).code == "upstream.unavailable"

    run(work())


def test_a_shared_server_has_one_process_for_everybody(run: Run) -> None:
    heard: list[Any] = []

    async def work() -> None:
        servers = {"git": fake(shared=True), "own": fake(slug="own")}
        pool = Pool(servers.get, on_notification=lambda *event: heard.append(event[:3]))
        alice, bob = await asyncio.gather(pool.connection("git", "alice"), pool.connection("git", "bob"))
        assert alice is bob
        await call(alice, "change")
        await call(await pool.connection("own", "bob"), "change")
        await pool.close()

    run(work())
    changed = "notifications/tools/list_changed"
    assert heard == [("git", None, changed), ("own", "bob", changed)]


def test_an_unknown_server_is_unavailable(run: Run) -> None:
    async def work() -> None:
        error = await refusal(Pool({}.get), "nope", "alice")
        assert error.code == "upstream.unavailable"
        assert "nope" in error.detail

    run(work())


def test_a_caller_who_leaves_does_not_take_the_start_from_the_others(run: Run) -> None:
    async def work() -> None:
        pool = Pool({"git": fake()}.get)
        leaver = asyncio.create_task(pool.connection("git", "alice"))
        stayer = asyncio.create_task(pool.connection("git", "alice"))
        await asyncio.sleep(0)
        leaver.cancel()
        connection = await stayer
        assert leaver.cancelled()
        assert (await call(connection, "echo"))["name"] == "echo"
        await pool.close()

    run(work())


def test_closing_the_pool_in_mid_start_is_an_error_for_the_caller_not_a_cancellation(run: Run) -> None:
    async def work() -> None:
        pool = Pool({"git": fake("modern", "--mute")}.get)
        waiting = asyncio.create_task(refusal(pool, "git", "alice"))
        await until(children)
        await pool.close()
        assert children() == []
        assert (await waiting).code == "upstream.unavailable"

    run(work())


def test_failed_starts_are_repeated_ever_more_slowly_and_said_so(run: Run) -> None:
    clock = Clock()

    async def work() -> None:
        servers = {"git": fake("modern", "--exit")}
        pool = Pool(servers.get, clock=clock)
        for wait in (1, 2, 4, 8, 16, 32, 60, 60):
            assert "exit status 7" in (await refusal(pool, "git", "alice")).detail
            clock.now += wait - 0.5
            early = await refusal(pool, "git", "alice")
            assert early.params["retry_in"] == 0.5
            assert "exit status 7" in early.detail
            clock.now += 0.5
        assert "retry_in" not in (await refusal(pool, "git", "bob")).params  # somebody else's failure is not his
        servers["git"] = fake()  # repaired by the operator: no waiting
        assert (await pool.connection("git", "alice")).alive
        await pool.close()

    run(work())


def test_a_dead_connection_is_replaced_and_quick_deaths_are_slowed_down(run: Run) -> None:
    clock = Clock()

    async def die(pool: Pool) -> None:
        with pytest.raises(UpstreamError, match="exit status 3"):
            await call(await pool.connection("git", "alice"), "die")

    async def work() -> None:
        pool = Pool({"git": fake()}.get, clock=clock)
        await die(pool)
        await die(pool)  # the first accident is repaired at once
        error = await refusal(pool, "git", "alice")
        assert (error.code, error.params["retry_in"]) == ("upstream.unavailable", 1.0)
        clock.now += 1
        await pool.connection("git", "alice")
        clock.now += pool_module.QUICK_DEATH_SECONDS  # a long life forgives
        await die(pool)
        await die(pool)
        await pool.close()

    run(work())


def test_a_changed_configuration_replaces_the_process(run: Run) -> None:
    async def work() -> None:
        servers = {"git": fake()}
        pool = Pool(servers.get)
        old = await pool.connection("git", "alice")
        servers["git"] = fake(env={"CHANGED": "1"})
        new = await pool.connection("git", "alice")
        assert new is not old
        assert not old.alive or (await pool.reap_idle()) is None
        await pool.close()
        assert is_gone(old.pid or 0)

    run(work())


def test_the_cap_is_kept_and_only_an_idle_connection_makes_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        pool = Pool({"git": fake()}.get, max_connections=2)
        alice, bob = [await pool.connection("git", who) for who in ("alice", "bob")]
        assert (await refusal(pool, "git", "carol")).code == "upstream.busy"  # handed out a moment ago
        monkeypatch.setattr(pool_module, "EVICTABLE_SECONDS", 0.0)
        busy = asyncio.create_task(call(alice, "never", timeout=5))
        await until(lambda: alice.pending)
        carol = await pool.connection("git", "carol")
        assert carol.alive
        assert alice.alive
        await pool.reap_idle()
        assert not bob.alive
        await pool.close()
        with pytest.raises(UpstreamError) as caught:
            await busy
        assert (caught.value.code, caught.value.sent) == ("upstream.cancelled", True)

    run(work())


def test_idle_connections_are_closed_and_busy_ones_are_not(run: Run) -> None:
    async def work() -> None:
        pool = Pool({"git": fake()}.get, idle_seconds=0)
        idle, busy = [await pool.connection("git", who) for who in ("idle", "busy")]
        task = asyncio.create_task(call(busy, "never", timeout=5))
        await until(lambda: busy.pending)
        await pool.reap_idle()
        assert (idle.alive, busy.alive) == (False, True)
        assert is_gone(idle.pid or 0)
        assert await pool.connection("git", "idle") is not idle
        task.cancel()
        await pool.close()

    run(work())


def test_the_era_of_a_server_is_asked_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really_open = StdioConnection.open

    async def counted(server: StdioServer, **options: Any) -> Any:
        opened.append(server.era)
        return await really_open(server, **options)

    monkeypatch.setattr(StdioConnection, "open", counted)

    async def work() -> None:
        pool = Pool({"git": fake("legacy")}.get)
        for who in ("alice", "bob"):
            assert (await pool.connection("git", who)).era == "2025-11-25"
        await pool.close()

    run(work())
    assert opened == ["auto", "legacy"]
