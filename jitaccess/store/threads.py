"""Threads with connections of their own, at their end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import connections


async def close_connections(executor: ThreadPoolExecutor, threads: int) -> None:
    """Each of these threads closes its own: they meet at the barrier, so that none does it twice."""
    barrier = threading.Barrier(threads)

    def close() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=2)
        connections.close_all()

    loop = asyncio.get_running_loop()
    await asyncio.wait([loop.run_in_executor(executor, close) for _ in range(threads)], timeout=3)
