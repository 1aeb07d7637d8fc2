"""On which core who runs: what is measured has one of its own, all that serves the measurement has another."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

_OURS = sorted(os.sched_getaffinity(0))
TARGET, LOAD = _OURS[0], _OURS[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What this thread starts meanwhile runs on `core`, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def pin(processes: Iterable[psutil.Process], core: int) -> None:
    """Processes of one thread each that run already, such as those of PostgreSQL."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.cpu_affinity([core])


def last_in_turn(process: psutil.Process) -> None:
    """All threads that it has now run only when their core has nothing else to do."""
    for thread in process.threads():
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, thread.id, 19)


def freeze(processes: Iterable[psutil.Process]) -> None:
    """They take no processor time until `thaw`."""
    _signal(processes, signal.SIGSTOP)


def thaw(processes: Iterable[psutil.Process]) -> None:
    _signal(processes, signal.SIGCONT)


def _signal(processes: Iterable[psutil.Process], sig: signal.Signals) -> None:
    for process in processes:
        for one in family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(sig)
