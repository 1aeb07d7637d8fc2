"""The disk of the database is full: calls are refused, nothing unrecorded is done, and with space again all is well.

A limit on the size of files stands in for the disk, because it needs no privilege: writes fail from one moment to the
next, and succeed again once the limit is lifted.
"""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests.databases import PostgreSQL, limit_files
from tests.faults.judge import judge
from tests.faults.world import World
from tests.installation import eventually

pytestmark = pytest.mark.timeout(300)
PAGE = 8192
WAL_FILE = 1 << 20
# Sixteen texts of 480 characters: about as much as the ledger keeps of a call.
FILLER = 16


def refused_for_lack_of_space(world: World) -> None:
    """Wait until calls are refused because they cannot be recorded, and none succeeds any more."""

    def full() -> bool:
        last = world.answers[-12:]
        # What nobody has access to is refused as ever, which at times needs no space.
        unable = [answer for answer in last if answer.detail in {"unavailable", "503"}]
        return len(unable) >= 6 and all(answer.kind == "refused" for answer in last)

    eventually(full, within=40, what=lambda: f"calls are refused: {world.answers[-12:]}\n{world.said()}")


def busy(world: World) -> None:
    world.rush.set()
    world.filler = FILLER
    eventually(lambda: sum(answer.kind == "done" for answer in world.answers) > 10, within=30, what="load")


def test_with_a_full_disk_calls_are_refused_until_there_is_space_again(
    world: World, server: PostgreSQL | None, postgresql: bool
) -> None:
    with world.load():
        busy(world)
        if server is not None:
            server.limit_files(WAL_FILE + 4 * PAGE)  # the write-ahead log fits, tables cannot grow
        else:
            size = (world.installation.var / "jitaccess.sqlite3").stat().st_size
            limit_files(world.roles["up"].popen.pid, size + PAGE)
        refused_for_lack_of_space(world)
        if server is not None:
            assert "could not extend file" in server.log
            server.limit_files(None)
        else:
            limit_files(world.roles["up"].popen.pid, None)
        world.filler = 0
        world.works()
    judge(world)


@pytest.mark.postgresql_only
def test_postgresql_gives_up_because_its_log_cannot_grow_and_all_is_well_once_it_is_back(
    world: World, server: PostgreSQL
) -> None:
    with world.load():
        busy(world)
        world.filler = 0
        server.limit_files(WAL_FILE // 2)

        def given_up() -> bool:
            with contextlib.suppress(psycopg.Error):
                world.installation.query("SELECT pg_switch_wal()")  # soon it will need a file that it cannot make
            return "PANIC" in server.log

        eventually(given_up, within=40, what=lambda: server.log[-2000:])
        refused_for_lack_of_space(world)
        server.limit_files(None)
        # It recovers by itself, or has given up for good when it had no space for that either. The limit counts shared
        # memory too: a recovery that wanted some has failed, and version 18 then neither ends nor tries again.
        eventually(
            lambda: not server.running or said(server, "ready to accept", "could not resize shared memory"),
            within=60,
            what=lambda: server.log[-4500:],
        )
        if not said(server, "ready to accept"):
            if server.running:
                server.kill()
            server.start()
        world.filler = 0
        world.works()
    judge(world)


def said(server: PostgreSQL, *words: str) -> bool:
    """Whether it has said one of `words` since it gave up."""
    return any(one in server.log.rpartition("PANIC")[2] for one in words)
