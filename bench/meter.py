"""What processes take: processor time and memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def processor_seconds(process: psutil.Process, *, family: bool = False) -> float:
    """So far; with `family` that of its children too, of which those that have ended count where they are buried."""
    times = process.cpu_times()
    own = float(times.user + times.system)
    if not family:
        return own
    own += float(times.children_user + times.children_system)
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            own += processor_seconds(child, family=True)
    return own


def database_server() -> psutil.Process | None:
    """The first process of the PostgreSQL server, if it runs on this machine; None with SQLite."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    with contextlib.suppress(psutil.Error):
        backend = psutil.Process(pid)
        return backend.parent() if backend.name().startswith("postgres") else None
    return None


def resident(process: psutil.Process) -> float:
    """Memory in MiB that it holds now."""
    return float(process.memory_info().rss) / 2**20


def peak(process: psutil.Process) -> float:
    """The most memory in MiB that it has held; where the system does not say, what it holds now."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resident(process)
