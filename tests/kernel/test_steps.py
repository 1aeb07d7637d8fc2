"""In processes of their own: a step that works ends or stops the one that takes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.installation import eventually

ROOT = Path(__file__).parent.parent.parent
# It says that it is there, waits to be let go, comes to the step again and again, and says that it went on.
PROGRAM = """
from jitaccess.kernel.steps import step
print("ready", flush=True)
input()
for _ in range(100):
    step("room.point")
    step("room.other")
print("went on", flush=True)
"""


def begin(**env: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name != "JITACCESS_TEST_STEPS"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=kept | env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


def test_without_the_variable_a_step_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "room.point").write_text("SIGKILL")
    process = begin()
    go(process)
    assert end(process) == (0, "went on\n")
    assert [path.name for path in tmp_path.iterdir()] == ["room.point"]


def test_a_step_for_which_there_is_no_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "another.point").write_text("SIGKILL")
    process = begin(JITACCESS_TEST_STEPS=str(tmp_path))
    go(process)
    assert end(process) == (0, "went on\n")
    assert [path.name for path in tmp_path.iterdir()] == ["another.point"]


def test_one_process_takes_the_file_and_is_killed(tmp_path: Path) -> None:
    (tmp_path / "room.point").write_text("SIGKILL\n")
    processes = [begin(JITACCESS_TEST_STEPS=str(tmp_path)) for _ in range(3)]
    for process in processes:
        go(process)
    ended = {process.pid: end(process) for process in processes}
    assert sorted(ended.values()) == [(-signal.SIGKILL, ""), (0, "went on\n"), (0, "went on\n")]
    (killed,) = (pid for pid, (status, _) in ended.items() if status)
    assert [path.name for path in tmp_path.iterdir()] == [f"room.point.{killed}"]


def test_a_frozen_process_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "room.other").write_text("SIGSTOP")
    process = begin(JITACCESS_TEST_STEPS=str(tmp_path))
    go(process)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, what="frozen")
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    assert end(process) == (0, "went on\n")
    assert [path.name for path in tmp_path.iterdir()] == [f"room.other.{process.pid}"]
