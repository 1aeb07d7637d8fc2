"""Where a run takes place: a new installation with a database of its own, and this process set up to use its services.

One process, one installation, because Django's settings are for life: `choose` comes before everything else.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from bench.upstream import arguments
from tests import databases

# An agent may ask for a hundred calls a second unless told otherwise. Here the limit is counted and never reached.
LIMITS = {"JITACCESS_RATE_PER_MINUTE": "1000000000", "JITACCESS_RATE_BURST": "1000000"}

# A database with the schema that may be copied, a path or a URL: only tests set this, to save five seconds.
MIGRATED = "JITACCESS_TEST_MIGRATED"
# Of its log, which a measured database server starts with.
_LOG_FILES = 64

if TYPE_CHECKING:
    from tests.installation import Installation, Process


def choose(database: str) -> None:
    """Point this process at a new "sqlite" or "postgresql" installation, empty but migrated."""
    os.environ["JITACCESS_TEST_DATABASE"] = database
    if database == "postgresql" and not os.environ.get(databases.URL):
        os.environ[databases.URL] = _durable_postgresql()
    os.environ.update(databases.environment())
    if database == "postgresql":
        os.environ["DATABASE_URL"] = new_database(os.environ[databases.URL], like=os.environ.get(MIGRATED, ""))
    elif os.environ.get(MIGRATED):
        shutil.copy(os.environ[MIGRATED], Path(os.environ["JITACCESS_VAR"]) / "jitaccess.sqlite3")
    os.environ["DJANGO_SETTINGS_MODULE"] = "jitaccess.settings"
    import django

    django.setup()


def _durable_postgresql() -> str:
    """A server as its makers ship it, fsync and all: the one of the test suite may forget what it was told.

    And as one that has run for a while: the files of its log are there, and used again. A young one makes and fills a
    new one of 16 MB about once a second under such a load, and everybody waits for that. Its memory is what
    docs/guides/run-in-production.md says: the default's is for the smallest of machines.
    """
    server = databases.PostgreSQL.new(
        "max_connections=200", "shared_buffers=1GB", f"min_wal_size={16 * _LOG_FILES}MB", "max_wal_size=4GB"
    )
    server.start()
    url = server.url("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(_LOG_FILES):
            connection.execute("SELECT pg_logical_emit_message(false, 'bench', 'a record'), pg_switch_wal()")
        connection.execute("CHECKPOINT")
    return url


def new_database(server: str, *, like: str = "") -> str:
    """The URL of one on this server, a copy of `like` or empty, which is dropped when this process ends."""
    head, _, tail = server.partition("?")
    name, base = f"bench_{uuid4().hex[:12]}", head.rpartition("/")[0]

    def execute(statement: str) -> None:
        with psycopg.connect(f"{base}/postgres?{tail}", autocommit=True) as connection:
            connection.execute(statement)

    template = urlsplit(like).path.removeprefix("/")
    execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    atexit.register(execute, f"DROP DATABASE {name} WITH (FORCE)")
    return f"{base}/{name}?{tail}"


class Place:
    """The chosen installation, its processes, and what its upstream received."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.record = installation.var / "received"
        self.gateways: list[Process] = []

    @property
    def urls(self) -> list[str]:
        return [gateway.url for gateway in self.gateways]

    @property
    def database(self) -> str:
        return "PostgreSQL" if self.installation.database_url else "SQLite"

    def start(self, *, gateways: int = 1) -> None:
        """On PostgreSQL a web process and `gateways`, on SQLite the one process of `jitaccess up`; once."""
        if self.gateways:
            return
        if not self.installation.database_url:
            self.gateways = [self.installation.up("--no-demo")]
            return
        self.installation.start("web")
        self.gateways = [self.installation.start("gateway") for _ in range(gateways)]

    def add_http(self, slug: str, url: str) -> None:
        """One more server in the file, over HTTP on this machine; before anything is started."""
        path = self.installation.var / "servers.json"
        content = json.loads(path.read_text())
        content["mcpServers"][slug] = {"url": url, "era": "modern", "shared": True}
        path.write_text(json.dumps(content))
        self.installation.environment["JITACCESS_EGRESS_ALLOW"] = "127.0.0.1"

    def stop(self) -> None:
        """What was started, so that something else can be."""
        self.gateways = []
        self.installation.stop()

    def received(self) -> dict[str, list[float]]:
        """When the upstream got each call, by nonce, on CLOCK_MONOTONIC. More than once would be a fault."""
        found: dict[str, list[float]] = defaultdict(list)
        for line in self.record.read_text().splitlines() if self.record.exists() else []:
            nonce, at = line.split(" ")
            found[nonce].append(float(at))
        return found


@contextmanager
def place() -> Iterator[Place]:
    """The installation that was chosen, migrated, with one MCP server in its file; its processes end with the block."""
    from tests.installation import Installation

    installation = Installation(Path(os.environ["JITACCESS_VAR"]), os.environ["DATABASE_URL"])
    installation.environment |= LIMITS
    here = Place(installation)
    entry = {"command": sys.executable, "args": arguments(str(here.record)), "era": "modern", "shared": True}
    (installation.var / "servers.json").write_text(json.dumps({"mcpServers": {"bench": entry}}))
    migrated = installation.cli("migrate", check=False)
    if migrated.returncode:
        raise SystemExit(migrated.stderr)
    try:
        yield here
    except BaseException:
        for process in installation.processes:
            print(*process.lines[-15:], sep="\n", file=sys.stderr)
        raise
    finally:
        installation.stop()


def describe_database() -> str:
    """Name, version and how durable it is."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT current_setting('server_version'), current_setting('fsync')")
            return "PostgreSQL {}, fsync {}".format(*cursor.fetchone())
        cursor.execute("SELECT sqlite_version(), (SELECT synchronous FROM pragma_synchronous)")
        version, level = cursor.fetchone()
        return f"SQLite {version}, WAL, synchronous {['OFF', 'NORMAL', 'FULL', 'EXTRA'][level]}"
