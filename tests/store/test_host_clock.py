from __future__ import annotations

import subprocess
import sys

import pytest

from jitaccess.store.host_clock import BASELINE_SECONDS, HostClock, steady

pytestmark = pytest.mark.pure

HOUR = 3600.0


class Machine:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 50.0
        self.clock = HostClock(lambda: self.wall, lambda: self.steady)

    def passes(self, seconds: float, *, fast_by: float = 0.0) -> None:
        self.steady += seconds
        self.wall += seconds + fast_by


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 2.1, -2.1])
def test_a_jump_is_told_once(machine: Machine, seconds: float) -> None:
    machine.passes(1)
    assert machine.clock.jump() == 0.0
    machine.wall += seconds
    assert machine.clock.drift() == pytest.approx(seconds)
    assert machine.clock.jump() == pytest.approx(seconds)
    assert machine.clock.jump() == 0.0
    machine.passes(HOUR)
    assert machine.clock.jump() == 0.0


def test_a_jump_back_after_a_jump_forward_is_another_one(machine: Machine) -> None:
    machine.wall += HOUR
    assert machine.clock.jump() == pytest.approx(HOUR)
    machine.wall -= HOUR
    assert machine.clock.jump() == pytest.approx(-HOUR)


def test_passing_time_is_no_jump_however_long_nobody_looks(machine: Machine) -> None:
    machine.passes(30 * 24 * HOUR)  # a suspended laptop: the steady clock goes on
    assert machine.clock.jump() == 0.0
    assert machine.clock.drift() == 0.0


@pytest.mark.parametrize("direction", [1, -1])
def test_a_clock_that_is_slewed_does_not_jump(machine: Machine, direction: int) -> None:
    for _ in range(24 * 60):
        machine.passes(60, fast_by=60 * 0.0005 * direction)
        assert machine.clock.jump() == 0.0


@pytest.mark.parametrize("days", [1, 365])
def test_a_small_jump_is_noticed_after_a_long_time_too(machine: Machine, days: int) -> None:
    for _ in range(days * 144):
        machine.passes(BASELINE_SECONDS)
        assert machine.clock.jump() == 0.0
    machine.passes(60, fast_by=3)
    assert machine.clock.jump() == pytest.approx(3)


def test_a_process_that_is_frozen_between_two_readings_sees_no_jump(machine: Machine) -> None:
    frozen = iter([True, False, True, False, False])

    def wall() -> float:
        before = machine.wall
        if next(frozen):
            machine.passes(60)
        return before

    clock = HostClock(wall, lambda: machine.steady)
    assert clock.jump() == 0.0
    machine.wall += HOUR
    assert clock.jump() == pytest.approx(HOUR)


def test_the_real_clocks_agree_with_each_other() -> None:
    clock = HostClock()
    first = steady()
    assert clock.jump() == 0.0
    assert abs(clock.drift()) < 1
    assert steady() >= first


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_setting_the_clock_of_a_process_is_noticed_in_it(seconds: float) -> None:
    """In a process of its own: time_machine moves time.time() and datetime.now(), and neither steady clock."""
    script = f"""
import time, time_machine
from jitaccess.store.host_clock import HostClock
clock = HostClock()
assert clock.jump() == 0.0
time_machine.travel(time.time() + {seconds}).start()
print(round(clock.jump()), clock.jump())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(round(seconds)), "0.0"]
