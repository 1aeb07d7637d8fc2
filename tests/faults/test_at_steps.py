"""kill -9 and freezes at each labelled step, in whichever process comes to it, under load; then everything must agree."""

from __future__ import annotations

import queue
import signal
import threading
import traceback

import pytest

from tests.faults.conftest import NIGHTLY, MakeWorld
from tests.faults.judge import intact, judge
from tests.faults.world import WAYS, World
from tests.installation import ON_POSTGRESQL

LABELS = (
    "admit.decided", "admit.written", "admit.committed", "forward.starting", "forward.sent", "forward.answered",
    "complete.written", "complete.committed", "sequence.read", "sequence.written", "sequence.committed",
    "checkpoint.copied", "approve.locked", "approve.written", "approve.committed", "end.locked", "end.written",
    "end.committed", "reconcile.written",
)  # fmt: skip
# With SQLite one process does everything: frozen is frozen, wherever it is. All of them there by night.
FROZEN_AT = LABELS if ON_POSTGRESQL or NIGHTLY else ("admit.written", "forward.sent", "sequence.written", "end.locked")
# Of each label in a row.
REPETITIONS = {signal.SIGKILL: 3 if NIGHTLY else 1, signal.SIGSTOP: 3 if NIGHTLY else 1}
ROUNDS = 34 if NIGHTLY else 1
FROZEN_SECONDS = 10.0
# Each lane is a whole installation to start; more of them would wait for the processor instead of for the faults.
LANES = {signal.SIGKILL: 4, signal.SIGSTOP: 6}
# A world's history grows, and with it the work of judging it.
ROUNDS_PER_WORLD = 12

pytestmark = pytest.mark.timeout(4 * 3600 if NIGHTLY else 600)


def test_kill_nine_at_any_step_leaves_nothing_half_done(make_world: MakeWorld) -> None:
    _everywhere(make_world, signal.SIGKILL, LABELS)


def test_a_process_frozen_at_any_step_does_no_harm(make_world: MakeWorld) -> None:
    _everywhere(make_world, signal.SIGSTOP, FROZEN_AT)


def _everywhere(make_world: MakeWorld, sig: signal.Signals, labels: tuple[str, ...]) -> None:
    """Each label REPETITIONS times in a row, then the judge; several installations side by side, each in the end intact."""
    work: queue.SimpleQueue[str] = queue.SimpleQueue()
    for label in labels * ROUNDS:
        work.put(label)
    done: list[str] = []
    failures: list[str] = []
    worlds: list[World] = []

    def lane() -> None:
        while not work.empty():
            world = make_world()
            worlds.append(world)
            try:
                _some_work(world, sig, work, done)
                intact(world.installation)
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(f"==== {error}\n{traceback.format_exc(limit=-4)}")
            finally:
                world.close()

    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(min(LANES[sig], len(labels)))]
    try:
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
    except BaseException:  # a timeout: nothing may go on behind the next tests
        while not work.empty():
            work.get()
        for world in worlds:
            world.kill(*world.roles)
        raise
    assert not failures, "\n\n".join(failures)
    assert sorted(done) == sorted(labels * ROUNDS)


def _some_work(world: World, sig: signal.Signals, work: queue.SimpleQueue[str], done: list[str]) -> None:
    world.start()
    for _ in range(ROUNDS_PER_WORLD):
        try:
            label = work.get_nowait()
        except queue.Empty:
            return
        try:
            _strike_often(world, label, sig)
        except Exception as error:
            # This world's record stays wrong: the next label begins with another.
            raise AssertionError(f"{sig.name} at {label}: {error}") from error
        done.append(label)


def _strike_often(world: World, label: str, sig: signal.Signals) -> None:
    world.renew_token()
    if ON_POSTGRESQL and label.startswith("approve."):
        world.webs = 2  # two people at once, in two processes
        world.start()
    with world.load():
        for number in range(LABELS.index(label), LABELS.index(label) + REPETITIONS[sig]):
            _strike(world, label, sig, way=WAYS[number % len(WAYS)] if label.startswith("end.") else "revoke")
    judge(world, ledger=False)


def _strike(world: World, label: str, sig: signal.Signals, *, way: str) -> None:
    world.way = way
    if label == "reconcile.written":
        dead = _leave_calls_open(world)
        world.arm(label, sig)
        world.end_lease(dead)  # not before: whoever keeps house reconciles at once
    elif label == "checkpoint.copied":
        world.kill(*world.web_roles)  # a process that begins to lead signs at once
        world.arm(label, sig)
    else:
        world.arm(label, sig)
    if label == "checkpoint.copied" or (label == "reconcile.written" and not ON_POSTGRESQL):
        world.launch(*world.web_roles)
    pid = world.taken(label)
    if sig is signal.SIGKILL and not NIGHTLY:
        world.end_lease(pid)  # as if it had been dead for long enough
    if sig is signal.SIGSTOP:
        threading.Event().wait(FROZEN_SECONDS)
        world.process_of(pid).popen.send_signal(signal.SIGCONT)
    world.start()
    world.works()


def _leave_calls_open(world: World) -> int:
    """Kill a process in the middle of a call; returns its pid."""
    world.arm("forward.sent", signal.SIGKILL)
    return world.taken("forward.sent")
