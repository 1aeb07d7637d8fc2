"""A server of both eras meets a client of the older one as it would without us; one of a single era is spoken to in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType

import pytest

from jitaccess.egress.client import Client
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.pool import Pool
from tests.nursery import ROOT, command

from .conftest import Run, fake
from .web_server import LOOPBACK, WebServer, call, serving

ABLE = {"elicitation": {}}


@asynccontextmanager
async def one(server: object, **options: object) -> AsyncIterator[Pool]:
    pool = Pool({"it": server}.get, client=Client(LOOPBACK), **options)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.close()


def test_a_server_of_both_eras_is_greeted_in_the_era_of_each_client(run: Run) -> None:
    program, *arguments = command(str(ROOT / "tests/conformance/server.py"), "stdio")
    both = StdioServer("it", program, tuple(arguments), MappingProxyType({}), None, "auto")

    async def work() -> None:
        async with one(both) as pool:
            newer, older = await asyncio.gather(
                pool.connection("it", "alice"), pool.connection("it", "alice", older=True, capabilities=ABLE)
            )
            assert (newer.era, older.era) == ("2026-07-28", "2025-11-25")
            assert await pool.connection("it", "alice") is newer
            assert await pool.connection("it", "alice", older=True, capabilities=ABLE) is older
            assert await pool.connection("it", "alice", older=True) is not older, "it was told of other capabilities"

    run(work())


@pytest.mark.parametrize(("era", "spoken"), [("modern", "2026-07-28"), ("legacy", "2025-11-25")])
def test_a_server_of_one_era_is_spoken_to_in_it_over_http(run: Run, era: str, spoken: str) -> None:
    async def work() -> None:
        async with serving(WebServer(era)) as server, one(server.config(slug="it")) as pool:
            for who in ("alice", "bob", "alice"):
                for older in (True, False):
                    connection = await pool.connection("it", who, older=older)
                    assert connection.era == spoken
                    await call(connection)
            greeted = server.methods().count("initialize")
            assert greeted == (1 if era == "modern" else 4), "what it does not know, it is asked once"

    run(work())


@pytest.mark.parametrize(("era", "spoken"), [("modern", "2026-07-28"), ("fragile", "2025-11-25")])
def test_a_server_of_one_era_is_spoken_to_in_it_on_stdio(run: Run, era: str, spoken: str) -> None:
    async def work() -> None:
        async with one(fake(era, slug="it", era="auto")) as pool:
            assert (await pool.connection("it", "alice", older=True)).era == spoken
            assert (await pool.connection("it", "bob", older=True)).era == spoken

    run(work())


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_what_an_operator_says_of_the_era_counts(run: Run, era: str) -> None:
    async def work() -> None:
        async with serving(WebServer(era)) as server, one(server.config(slug="it", era=era)) as pool:
            await pool.connection("it", "alice")
            mine = await pool.connection("it", "alice")
            assert await pool.connection("it", "alice", older=True) is mine
            assert pool.apart("it", older=True) == pool.apart("it") == (era == "legacy")
            assert set(server.methods()) & {"initialize", "server/discover"} == {
                "server/discover" if era == "modern" else "initialize"
            }

    run(work())
