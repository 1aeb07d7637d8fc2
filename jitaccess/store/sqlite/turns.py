"""Whose turn it is to write: first come, first served among threads; never twice in a row before another process.

SQLite lets one writer in at a time and lets the others poll for it: whoever writes back to back starves them. So a
writer takes a turn first. SQLite's own lock stays underneath, for programs that know nothing of this queue.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path

POLL_SECONDS = 0.001


class Line:
    """The threads of this process, in the order of their coming; the first one has the turn.

    Connections are closed by the garbage collector too, in the middle of anything any thread does: `leave` never waits
    for a lock, since its own thread may hold it one frame below.
    """

    def __init__(self) -> None:
        self._batons: deque[threading.Lock] = deque()
        self._leaving: deque[threading.Lock] = deque()
        self._mutex = threading.Lock()

    def join(self, timeout: float) -> threading.Lock | None:
        """Wait at most `timeout` seconds to be the first; returns what `leave` wants back, None if it was too long."""
        baton = threading.Lock()
        baton.acquire()
        first = False
        try:
            self._batons.append(baton)
            # Locks that are appended and taken away atomically: either we see that we are first, or we are woken.
            first = self._batons[0] is baton or baton.acquire(timeout=max(timeout, 0))
        finally:
            if not first:
                self.leave(baton)
        return baton if first else None

    def leave(self, baton: threading.Lock) -> None:
        """Step out, from whatever place, and wake who is first then."""
        self._leaving.append(baton)
        # Whoever holds the mutex looks again after it has let go, so nobody who leaves is overlooked.
        while self._leaving and self._mutex.acquire(blocking=False):
            try:
                while self._leaving:
                    self._batons.remove(self._leaving.popleft())
                if self._batons and self._batons[0].locked():
                    self._batons[0].release()
            finally:
                self._mutex.release()


class Turnstile:
    """Processes, by two locked files beside the database: hold `next`, wait for `turn`, let go of `next`.

    Whoever has just had its turn finds `next` held by the one that waits. The kernel frees both when a process dies.
    One thread of a process at a time.
    """

    def __init__(self, database: str) -> None:
        self._paths = (Path(f"{database}.next"), Path(f"{database}.turn"))
        self._files: list[int] = []

    def enter(self, deadline: float) -> bool:
        """False when it is not our turn by `deadline`, monotonic. Raises sqlite3.OperationalError."""
        if not self._lock(0, deadline):
            return False
        try:
            return self._lock(1, deadline)
        finally:
            fcntl.flock(self._files[0], fcntl.LOCK_UN)

    def _lock(self, which: int, deadline: float) -> bool:
        path = self._paths[which]
        try:
            if which == len(self._files):
                self._files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return _lock(self._files[which], deadline)
        except OSError as error:
            raise sqlite3.OperationalError(f"unable to lock {path}: {error.strerror}") from error

    def leave(self) -> None:
        if len(self._files) == len(self._paths):
            fcntl.flock(self._files[1], fcntl.LOCK_UN)

    def forget(self) -> None:
        """Close without unlocking: in a forked child the locks are still the parent's."""
        files, self._files = self._files, []
        for file in files:
            os.close(file)


class Turn:
    """The right to write, until it is given back: at the latest when the connection that holds it is collected."""

    def __init__(self, queue: Queue, baton: threading.Lock) -> None:
        self._queue, self._baton = queue, baton
        self._given = False

    def give_back(self) -> None:
        if not self._given:
            self._given = True
            self._queue.turnstile.leave()
            self._queue.line.leave(self._baton)

    __del__ = give_back


class Queue:
    """The writers of one database file."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.line = Line()
        self.turnstile = Turnstile(database)

    def take(self, timeout: float) -> Turn:
        """Wait at most `timeout` seconds. Raises sqlite3.OperationalError when others write for longer."""
        deadline = time.monotonic() + timeout
        baton = self.line.join(timeout)
        entered = False
        try:
            entered = baton is not None and self.turnstile.enter(deadline)
        finally:
            if baton is not None and not entered:
                self.line.leave(baton)
        if baton is None or not entered:
            raise sqlite3.OperationalError(
                f"database is locked: another writer, in this process or in another one, has not let go of "
                f"{self._database} within {timeout:g} s"
            )
        return Turn(self, baton)


_queues: dict[str, Queue] = {}


def queue_of(database: str) -> Queue:
    """The queue that all connections of this process to one file share."""
    path = os.path.realpath(database)
    return _queues.setdefault(path, Queue(path))


def _lock(file: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def _after_fork() -> None:
    for queue in _queues.values():
        queue.turnstile.forget()
    _queues.clear()


os.register_at_fork(after_in_child=_after_fork)
