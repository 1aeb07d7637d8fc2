"""Runs one stdio server and guarantees its end. Started as a script by process.py; standard library only.

    python -I -S keeper.py LIFELINE_FD LIMITS COMMAND [ARG...]

LIMITS is "memory_mb=512,open_files=256", or "".

Why a process of its own, instead of a preexec_fn in the gateway: code between fork and exec deadlocks in a process
with threads, and PR_SET_PDEATHSIG on the server alone would leave the server's own children behind. The gateway
holds the other end of the LIFELINE pipe, so the kernel closes it even when the gateway is killed with SIGKILL.

When the lifeline closes (or on SIGTERM) the server's process group gets SIGTERM and, TERM_SECONDS later, SIGKILL.
When the server has ended, for whatever reason, everything it started is killed, daemons included (on Linux the
keeper is their subreaper). Exits with the server's status, 128 + signal, or 127 when it could not be run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

TERM_SECONDS = 2.0
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMITS = {
    "memory_mb": (resource.RLIMIT_AS, 1 << 20),
    "cpu_seconds": (resource.RLIMIT_CPU, 1),
    "open_files": (resource.RLIMIT_NOFILE, 1),
}
OPEN_FILES = 1024
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def limit(text: str) -> None:
    """Limit this process, and each of its children by itself, below what the system allows anyway."""
    given = {name: int(number) for name, _, number in (part.partition("=") for part in text.split(",") if part)}
    if "open_files" not in given:
        # The gateway has raised its own, which programs with select() would not survive; others raise theirs.
        restrict(resource.RLIMIT_NOFILE, OPEN_FILES, resource.RLIM_INFINITY)
    for name, number in given.items():
        kind, unit = LIMITS[name]
        # Beyond the soft limit of time comes SIGXCPU, beyond the hard one SIGKILL.
        restrict(kind, number * unit, number * unit + (5 if kind == resource.RLIMIT_CPU else 0))


def restrict(kind: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(kind)
    lower = [number for number in (hard, most) if number != resource.RLIM_INFINITY]
    hard = min(lower, default=resource.RLIM_INFINITY)
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def run_server(argv: list[str], limits: str, keeper: int) -> NoReturn:
    """In the forked child: become the server."""
    try:
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above: no signal will ever come
            os._exit(127)
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        limit(limits)
        os.execvp(argv[0], argv)  # noqa: S606 - the operator's argv, and no shell is the point
    except OSError as error:
        os.write(2, f"cannot run {argv[0]!r}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap(server: int) -> int | None:
    """Collect every ended child; return the server's wait status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == server:
            found = status
        if pid == 0:
            return found


def supervise(server: int, lifeline: int, wakeup: int) -> int:
    """Return the server's wait status, after at most one SIGTERM and one SIGKILL to its group."""
    watched, deadline = [lifeline, wakeup], None
    while True:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], remaining)
        signals = os.read(wakeup, 4096) if wakeup in ready else b""
        status = reap(server)
        if status is not None:
            return status
        if deadline is None:
            if lifeline in ready or signal.SIGTERM in signals:
                watched, deadline = [wakeup], time.monotonic() + TERM_SECONDS
                signal_group(server, signal.SIGTERM)
        elif time.monotonic() >= deadline:
            signal_group(server, signal.SIGKILL)
            deadline = time.monotonic() + TERM_SECONDS


def sweep(server: int) -> None:
    """Kill what the server left behind. Orphans come to us as they lose their parents, so repeat until none is left."""
    signal_group(server, signal.SIGKILL)
    while True:
        try:
            children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            ended, _ = os.waitpid(-1, 0 if children else os.WNOHANG)
            if ended == 0:  # there are some, though the listing, which is no snapshot, missed them
                time.sleep(0.01)
        except (OSError, ValueError):  # no children, not Linux, or not ours to kill (setuid)
            return


def main() -> int:
    lifeline, limits, argv, keeper = int(sys.argv[1]), sys.argv[2], sys.argv[3:], os.getpid()
    # Its number is the gateway's, which may have thousands of files open: select() takes none beyond 1023.
    low = os.dup(lifeline)
    os.close(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file holds the server's credentials
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    for number in HANDLED:
        signal.signal(number, lambda *_: None)  # handlers, unlike SIG_IGN, are not inherited through exec
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    # Blocked over the fork: a SIGTERM for the child would otherwise be lost in the handlers it has until it executes.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    server = os.fork()
    if server == 0:
        run_server(argv, limits, keeper)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    with suppress(OSError):  # it has already executed or ended
        os.setpgid(server, server)  # both sides do it: whichever comes first
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the pipes are the server's alone, or the gateway would never see their end
        os.dup2(null, stream)
    status = supervise(server, low, wakeup)
    sweep(server)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    code = main()
    os._exit(code)
