"""Web, two gateways, worker, beat, PostgreSQL and Redis: each is killed and frozen in turn under load."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.databases import PostgreSQL
from tests.faults.conftest import NIGHTLY
from tests.faults.judge import judge
from tests.faults.world import Ready, World
from tests.installation import eventually
from tests.redis import Redis

pytestmark = [pytest.mark.postgresql_only, pytest.mark.timeout(3600 if NIGHTLY else 600)]
ROUNDS = 10 if NIGHTLY else 1
FROZEN_SECONDS = 3.0
ROLES = ("worker", "beat", "web", "gateway", "other gateway")


@pytest.fixture
def redis() -> Iterator[Redis]:
    started = Redis().start()
    yield started
    started.stop()


@pytest.fixture
def whole(ready: Ready, server: PostgreSQL, redis: Redis, tmp_path: Path) -> Iterator[World]:
    """The installation of a production page, each part a process of its own."""
    made = World(ready.installation.copy(tmp_path / "var", database_url=server.url("jitaccess")), ready)
    made.installation.environment["REDIS_URL"] = redis.url
    made.start()
    assert set(made.roles) == set(ROLES)
    yield made
    made.close()


def at_work(world: World) -> None:
    """Wait until calls have been answered since now."""
    begin = len(world.answers)
    eventually(
        lambda: sum(answer.kind == "done" for answer in world.answers[begin:]) > 8,
        within=60,
        what=lambda: f"load\n{world.said()}",
    )


def tidied(world: World) -> Callable[[], bool]:
    """Whether a grant that is over by the clock has been ended by the worker."""
    return lambda: (
        not world.installation.query(
            "SELECT 1 FROM jit_requests_grant WHERE ended_at IS NULL AND expires_at < jit_now()"
        )
    )


def pause() -> None:
    threading.Event().wait(FROZEN_SECONDS)


def test_each_part_is_killed_and_frozen_under_load_and_the_guarantees_hold(
    whole: World, server: PostgreSQL, redis: Redis
) -> None:
    whole.way = "expire"
    for _ in range(ROUNDS):
        whole.renew_token()
        with whole.load():
            whole.rush.set()
            at_work(whole)
            for role in ROLES:
                frozen = whole.roles[role].popen
                frozen.send_signal(signal.SIGSTOP)
                pause()
                frozen.send_signal(signal.SIGCONT)
                whole.works()
                whole.kill(role)
                at_work(whole) if role != "web" else pause()
                whole.start()
                whole.works()
            for fault, mend in ((redis.freeze, redis.thaw), (redis.kill, redis.start)):
                fault()
                at_work(whole)  # no decision waits for it
                mend()
            redis.ask("FLUSHALL")  # what was queued is gone: the database tells what there is to do
            at_work(whole)
            for fault, mend in ((server.freeze, server.thaw), (server.kill, server.start)):
                fault()
                pause()
                mend()
                whole.works()
            whole.hurry.set()
        whole.pass_time(3600)
        eventually(tidied(whole), within=60, what=lambda: f"the worker tidies again\n{whole.said()}")
        judge(whole)
    assert whole.approvals, "nobody was granted anything meanwhile"
    assert all(process.popen.poll() is None for process in whole.roles.values())
