"""Servers over HTTP in the pool: who shares what, and what a server that is down costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitaccess.egress import client as egress
from jitaccess.egress.client import Client
from jitaccess.gateway.upstream import pool as pool_module
from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.pool import Pool

from .conftest import Run, fake, until
from .test_pool import Clock, refusal
from .web_server import LOOPBACK, Seen, WebServer, call, serving


def test_a_modern_server_is_shared_once_known_and_a_legacy_one_has_a_session_per_principal(run: Run) -> None:
    async def work() -> None:
        async with serving(WebServer("modern")) as modern, serving(WebServer("legacy")) as legacy:
            servers = {"modern": modern.config(slug="modern"), "legacy": legacy.config(slug="legacy")}
            pool = Pool(servers.get, client=Client(LOOPBACK))
            for slug in servers:
                for who in ("alice", "bob", "alice", "carol"):
                    await call(await pool.connection(slug, who))
            bob, carol = await pool.connection("modern", "bob"), await pool.connection("modern", "carol")
            assert bob is carol
            assert await pool.connection("legacy", "bob") is not await pool.connection("legacy", "carol")
            assert len({seen.request.headers["Mcp-Session-Id"] for seen in legacy.calls()}) == 3
            assert legacy.methods().count("server/discover") == 1  # the era of a server is asked once
            await pool.close()
            assert legacy.sessions == set()

    run(work())


def test_a_shared_legacy_server_has_one_session(run: Run) -> None:
    async def work() -> None:
        async with serving(WebServer("legacy")) as server:
            pool = Pool({"far": server.config(shared=True)}.get, client=Client(LOOPBACK))
            await asyncio.gather(*(pool.connection("far", who) for who in "abcd"))
            assert server.methods().count("initialize") == 1
            await pool.close()

    run(work())


def test_a_server_that_is_down_is_found_out_once_for_everybody(run: Run) -> None:
    clock = Clock()

    async def work() -> None:
        server = WebServer()
        async with serving(server):
            pass
        pool = Pool({"far": server.config()}.get, client=Client(LOOPBACK), clock=clock)
        for wait in (1, 2, 4, 8, 16, 32, 60, 60):
            assert "cannot be reached" in (await refusal(pool, "far", "alice")).detail
            clock.now += wait - 0.5
            for who in ("alice", "bob", "carol"):  # the same server for all, so nobody tries it again
                early = await refusal(pool, "far", who)
                assert early.params["retry_in"] == 0.5
                assert "cannot be reached" in early.detail
            clock.now += 0.5
        await pool.close()

    run(work())


def test_many_who_find_a_server_down_at_once_count_as_one(run: Run) -> None:
    clock = Clock()

    async def work() -> None:
        server = WebServer()
        async with serving(server):
            pass
        pool = Pool({"far": server.config()}.get, client=Client(LOOPBACK), clock=clock)
        await asyncio.gather(*(refusal(pool, "far", str(number)) for number in range(20)))
        assert (await refusal(pool, "far", "alice")).params["retry_in"] == 1.0
        await pool.close()

    run(work())


def test_a_server_that_goes_away_in_between_is_asked_anew_and_then_left_alone(run: Run) -> None:
    clock = Clock()

    async def work() -> None:
        server = WebServer()
        pool = Pool({"far": server.config(url="http://127.0.0.1:1/")}.get, client=Client(LOOPBACK), clock=clock)
        async with serving(server):
            servers = {"far": server.config()}
            pool._servers = servers.get
            connection = await pool.connection("far", "alice")
            await call(connection)
        clock.now += pool_module.QUICK_DEATH_SECONDS
        with pytest.raises(UpstreamError) as caught:
            await call(connection)
        assert caught.value.sent is False
        assert "retry_in" not in (await refusal(pool, "far", "alice")).params
        assert (await refusal(pool, "far", "alice")).params["retry_in"] == 1.0
        await pool.close()

    run(work())


def test_a_server_that_is_down_or_slow_harms_only_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_PER_ORIGIN", 4)

    async def work() -> None:
        async def never(_: Seen) -> Any:
            await asyncio.Event().wait()

        async with serving(WebServer("legacy", on={"tools/call": never})) as slow, serving(WebServer()) as good:
            servers = {"slow": slow.config(slug="slow"), "good": good.config(slug="good"), "near": fake(slug="near")}
            pool = Pool(servers.get, client=Client(LOOPBACK), max_connections=1)
            lines = [await pool.connection("slow", who) for who in "abcd"]
            tasks = [asyncio.create_task(call(line)) for line in lines]
            await until(lambda: len(slow.calls()) == 4)
            with pytest.raises(UpstreamError) as caught:
                await call(lines[0])
            assert (caught.value.code, caught.value.sent) == ("upstream.busy", False)
            assert (await call(await pool.connection("good", "a")))["content"] == []
            # Nor do sessions take the places of processes.
            assert (await pool.connection("near", "a")).alive
            await pool.close()
            for task in tasks:
                with pytest.raises(UpstreamError):
                    await task

    run(work())


def test_sessions_have_a_cap_and_idle_ones_are_ended_at_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with serving(WebServer("legacy")) as server:
            pool = Pool({"far": server.config()}.get, client=Client(LOOPBACK), max_http_connections=2, idle_seconds=0)
            for who in ("alice", "bob"):
                await pool.connection("far", who)
            error = await refusal(pool, "far", "carol")
            assert error.code == "upstream.busy"
            assert "over HTTP" in error.detail
            await pool.reap_idle()
            assert server.sessions == set()
            await pool.connection("far", "carol")
            await pool.close()

    run(work())


def test_a_changed_credential_takes_effect_with_the_next_call(run: Run) -> None:
    async def work() -> None:
        async with serving(WebServer()) as server:
            servers = {"far": server.config(headers={"Authorization": "Bearer old"})}
            pool = Pool(servers.get, client=Client(LOOPBACK))
            await call(await pool.connection("far", "alice"))
            servers["far"] = server.config(headers={"Authorization": "Bearer new"})
            await call(await pool.connection("far", "alice"))
            assert [seen.request.headers["Authorization"] for seen in server.calls()] == ["Bearer old", "Bearer new"]
            await pool.close()

    run(work())


def test_two_principals_never_use_each_others_session_even_at_once(run: Run) -> None:
    async def work() -> None:
        async with serving(WebServer("legacy")) as server:
            pool = Pool({"far": server.config()}.get, client=Client(LOOPBACK))

            async def use(who: str) -> None:
                await call(await pool.connection("far", who), who=who)

            await asyncio.gather(*(use(who) for who in "abcdefgh" * 5))
            used = {
                (seen.message["params"]["arguments"]["who"], seen.request.headers["Mcp-Session-Id"])
                for seen in server.calls()
            }
            assert len(used) == len({who for who, _ in used}) == len({session for _, session in used}) == 8
            await pool.close()

    run(work())


def test_a_server_that_turns_out_to_have_sessions_after_all_gives_none_to_several_principals(run: Run) -> None:
    async def work() -> None:
        async with serving(WebServer("modern")) as server:
            servers = {"far": server.config()}
            pool = Pool(servers.get, client=Client(LOOPBACK))
            await (await pool.connection("far", "alice")).close()
            server.era = "legacy"
            bob, carol = (asyncio.create_task(pool.connection("far", who)) for who in ("bob", "carol"))
            await asyncio.sleep(0)  # they wait for one start, which has not begun
            pool._eras.clear()  # as another start does that fails
            for who in (bob, carol):
                with pytest.raises(UpstreamError):
                    await who
            assert server.sessions == set()
            await pool.close()

    run(work())
