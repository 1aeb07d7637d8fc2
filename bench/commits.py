"""What a commit of the installation's database takes, for comparison: a row, durable."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import psycopg

from bench.report import quantiles

if TYPE_CHECKING:
    from tests.installation import Installation

COMMITS = 300
_MAKE = "CREATE TABLE bench_commit (id integer PRIMARY KEY, what text)"
_WRITE = "INSERT INTO bench_commit VALUES ({}, 'about as much as a call leaves behind, so that something is written')"


def commit_seconds(installation: Installation) -> list[float]:
    """p50, p95, p99 and the longest, in milliseconds, of one client that commits one row after the other."""
    times = []
    with contextlib.ExitStack() as stack:
        if installation.database_url:
            server = stack.enter_context(psycopg.connect(installation.database_url, autocommit=True))
            execute = server.execute
        else:
            path = installation.var / "jitaccess.sqlite3"
            file = stack.enter_context(contextlib.closing(sqlite3.connect(path, timeout=20, isolation_level=None)))
            file.execute("PRAGMA synchronous = FULL")
            execute = file.execute  # type: ignore[assignment]
        execute(_MAKE)
        for number in range(COMMITS):
            began = time.perf_counter()
            execute(_WRITE.format(number))
            times.append(time.perf_counter() - began)
        execute("DROP TABLE bench_commit")
    return quantiles(times)
