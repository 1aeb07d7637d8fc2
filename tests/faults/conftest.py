from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.databases import PostgreSQL
from tests.faults.world import Ready, World, make_ready
from tests.installation import ON_POSTGRESQL, Installation, create_database

NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
MakeWorld = Callable[[], World]
# No fsync: it matters when the machine dies, not when a process of ours does.
FAST = ("fsync=off", "full_page_writes=off", "max_connections=600")


@pytest.fixture(scope="session")
def blueprint() -> PostgreSQL | None:
    """A PostgreSQL server for these tests alone, stopped: they start copies of it."""
    return PostgreSQL.new(wal_megabytes=1) if ON_POSTGRESQL else None


@pytest.fixture(scope="session")
def ready(blueprint: PostgreSQL | None, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """An installation after its first start, stopped; on PostgreSQL its database is that of the blueprint."""
    var = tmp_path_factory.mktemp("faults") / "var"
    if blueprint is None:
        return make_ready(Installation(var))
    blueprint.start()
    with psycopg.connect(blueprint.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE jitaccess")
    made = make_ready(Installation(var, blueprint.url("jitaccess")))
    blueprint.stop()
    return made


@pytest.fixture
def make_world(ready: Ready, blueprint: PostgreSQL | None, tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes worlds with a database each, on one PostgreSQL server that nothing happens to."""
    server = None
    if blueprint is not None:
        server = blueprint.copy(*FAST)
        server.start()
    numbers = itertools.count()

    def make() -> World:
        url = create_database(template=server.url("jitaccess")) if server else ""
        return World(ready.installation.copy(tmp_path / f"{next(numbers)}" / "var", database_url=url), ready)

    yield make
    if server is not None:
        server.stop()


@pytest.fixture
def server(blueprint: PostgreSQL | None) -> Iterator[PostgreSQL | None]:
    """A PostgreSQL server for one test, which may do to it what it likes; with fsync, and all else as it comes."""
    # Only its own log must not fill the disk with what it could not do.
    copy = blueprint.copy("log_min_error_statement=panic") if blueprint else None
    if copy is not None:
        copy.start()
    yield copy
    if copy is not None and copy.running:
        copy.thaw()
        copy.limit_files(None)
        copy.stop()


@pytest.fixture
def world(ready: Ready, server: PostgreSQL | None, tmp_path: Path) -> Iterator[World]:
    """A running world on a database server of its own."""
    url = server.url("jitaccess") if server else ""
    made = World(ready.installation.copy(tmp_path / "var", database_url=url), ready)
    made.start()
    yield made
    made.close()
