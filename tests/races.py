"""Several people at once: a thread and a database connection each, let go at the same instant.

Both are kept for the next race: what PostgreSQL reads for a new connection costs more than what most steps do.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from django.db import connection

from jitaccess.kernel.errors import JitAccessError

_people = ThreadPoolExecutor(64, thread_name_prefix="racer")


def race(*steps: Callable[[], Any]) -> list[Any]:
    """Run `steps` at once; return what each returned, or the JitAccessError it raised, in their order.

    Any other exception is raised here: a race may be lost, but only with a clean refusal.
    """
    barrier = threading.Barrier(len(steps), timeout=30)
    results: list[Any] = [None] * len(steps)
    broken: list[BaseException] = []

    def run(number: int, step: Callable[[], Any]) -> None:
        try:
            if connection.connection is not None and not connection.is_usable():  # somebody cut it off meanwhile
                connection.close()
            connection.ensure_connection()
            barrier.wait()
            results[number] = step()
        except JitAccessError as error:
            results[number] = error
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            broken.append(error)
            barrier.abort()
            connection.close()

    running = [_people.submit(contextvars.Context().run, run, *pair) for pair in enumerate(steps)]
    if wait(running, timeout=60).not_done:
        raise AssertionError("a racing step hangs")
    if broken:
        raise next((error for error in broken if not isinstance(error, threading.BrokenBarrierError)), broken[0])
    return results
