from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.databases import PostgreSQL, programs
from tests.e2e.conftest import first_start
from tests.faults.world import Ready, World, put_the_witness
from tests.installation import ON_POSTGRESQL, Installation, create_database, prepared
from tests.once import once

__all__ = ["first_start"]
NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
MakeWorld = Callable[[], World]
# No fsync: it matters when the machine dies, not when a process of ours does.
FAST = ("fsync=off", "full_page_writes=off", "max_connections=600")


@pytest.fixture(scope="session")
def ready(migrated: str, request: pytest.FixtureRequest) -> Ready:
    """An installation after its first start, stopped; on PostgreSQL its database is that of the blueprint."""

    def make(folder: Path) -> None:
        folder.mkdir(mode=0o755)
        if not ON_POSTGRESQL:
            first: Installation = request.getfixturevalue("first_start")
            put_the_witness(first.copy(folder / "var"))
            return
        server = PostgreSQL.new(folder=folder, wal_megabytes=1)
        server.start()
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE jitaccess")
        schema = subprocess.run([programs() / "pg_dump", migrated], check=True, capture_output=True).stdout
        subprocess.run(
            [programs() / "psql", "-q", server.url("jitaccess")], input=schema, check=True, capture_output=True
        )
        put_the_witness(prepared(folder / "var", database_url=server.url("jitaccess")))
        server.stop()

    return Ready.read(Installation(once("faults", make) / "var"))


@pytest.fixture(scope="session")
def blueprint(ready: Ready) -> PostgreSQL | None:
    """A PostgreSQL server for these tests alone, stopped: they start copies of it."""
    return PostgreSQL(ready.installation.var.parent) if ON_POSTGRESQL else None


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
