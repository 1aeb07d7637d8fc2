"""The PostgreSQL server is restarted, killed or frozen under load: no call goes unrecorded, all comes back by itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.databases import PostgreSQL
from tests.faults.conftest import NIGHTLY
from tests.faults.judge import judge
from tests.faults.world import Ready, World
from tests.gateway.harness import Client, Stream
from tests.installation import eventually

pytestmark = [pytest.mark.postgresql_only, pytest.mark.timeout(3600 if NIGHTLY else 300)]
ROUNDS = 30 if NIGHTLY else 1
FROZEN_SECONDS = 8.0
ANSWER_SECONDS = 30.0


@contextlib.contextmanager
def streams(world: World) -> Iterator[list[Stream]]:
    """One open stream of changes in each era, in each gateway."""
    with contextlib.ExitStack() as stack:
        agents = [stack.enter_context(Client(url, world.token)) for url in (*world.gateways, *world.gateways)]
        for old in agents[:2]:
            old.initialize()
        yield [stack.enter_context(agent.listen()) for agent in agents]


def kinds(world: World, begin: int) -> list[str]:
    return [answer.kind for answer in world.answers[begin:]]


def under_load(world: World) -> int:
    """Wait until everybody is at work; returns how many answers there are by then."""
    world.rush.set()
    begin = len(world.answers)
    eventually(lambda: kinds(world, begin).count("done") > 20 and world.approvals, within=30, what="load")
    return len(world.answers)


def verdict(world: World, begin: int) -> None:
    slow = [answer for answer in world.answers[begin:] if answer.seconds >= ANSWER_SECONDS]
    assert not slow, f"answered too late: {slow}"
    judge(world)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_server_is_restarted_under_load(world: World, server: PostgreSQL, how: str) -> None:
    for _ in range(ROUNDS):
        world.renew_token()
        with world.load(), streams(world) as open_streams:
            begin = under_load(world)
            getattr(server, how)()
            for stream in open_streams:
                assert stream.ended.wait(15), "a stream stayed open while nobody could say what is allowed"
            eventually(lambda begin=begin: "refused" in kinds(world, begin), what="calls are refused")
            server.start()
            world.works()
        verdict(world, begin)


def test_the_server_is_frozen_under_load(world: World, server: PostgreSQL) -> None:
    for _ in range(ROUNDS):
        world.renew_token()
        with world.load(), streams(world) as open_streams:
            begin = under_load(world)
            server.freeze()
            threading.Event().wait(FROZEN_SECONDS)
            ended = [stream.ended.is_set() for stream in open_streams]
            server.thaw()
            assert all(ended), f"streams stayed open while nobody could say what is allowed: {ended}"
            world.works()
        verdict(world, begin)


def test_a_frozen_server_keeps_no_process_from_stopping(ready: Ready, server: PostgreSQL, tmp_path: Path) -> None:
    installation = ready.installation.copy(tmp_path / "var", database_url=server.url("jitaccess"))
    processes = [installation.launch(role) for role in ("web", "gateway")]
    for process in processes:
        process.wait_ready()
    server.freeze()
    for process in processes:  # now a thread of each waits for an answer that does not come
        url = f"{process.url}/readyz"
        eventually(lambda url=url: httpx2.get(url, timeout=10).status_code == 503, what="it is not ready")
    for process in processes:
        process.stop(signal.SIGTERM)
        assert process.popen.returncode == 0, process.output
