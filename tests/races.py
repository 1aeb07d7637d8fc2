"""Several people at once: a thread and a database connection each, let go at the same instant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection

from jitaccess.kernel.errors import JitAccessError


def race(*steps: Callable[[], Any]) -> list[Any]:
    """Run `steps` at once; return what each returned, or the JitAccessError it raised, in their order.

    Any other exception is raised here: a race may be lost, but only with a clean refusal.
    """
    barrier = threading.Barrier(len(steps), timeout=30)
    results: list[Any] = [None] * len(steps)
    broken: list[BaseException] = []

    def run(number: int, step: Callable[[], Any]) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            results[number] = step()
        except JitAccessError as error:
            results[number] = error
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            broken.append(error)
            barrier.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(steps)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a racing step hangs"
    if broken:
        raise next((error for error in broken if not isinstance(error, threading.BrokenBarrierError)), broken[0])
    return results
