"""`jitaccess demo`: the story is told in order, a step that goes otherwise is named, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.installation import COMMAND, ROOT, eventually

# It makes its own installation, on SQLite whatever this run is on.
pytestmark = pytest.mark.pure

BEATS = (
    "demo-agent is connected",
    "1  Reading works from the start",
    "Message: Begin the notes",
    "2  Writing is refused",
    "Access denied: 'git_commit'",
    "3  The agent asks for access",
    "status: pending",
    "4  A person decides",
    "HTTP 403: You cannot decide on this request",
    "anna → presses Approve",
    "decided by: anna",
    "5  The open session hears of it",
    "tools/list_changed arrived",
    "6  The commit goes through",
    "Demo Agent: Remember one more thing",
    "7  A person takes it back",
    "Access denied: 'git_commit'",
    "8  All of it is on record",
    "olga revoked the access",
    "Intact: ",
    "jitaccess is stopped",
    "All of it went as told",
)

# Where `jitaccess up` starts, somebody has migrated its database already: to do so takes five seconds.
MIGRATED = """\
import os, shutil, sys
if "up" in sys.orig_argv:
    os.makedirs(os.environ["JITACCESS_VAR"], 0o700)
    shutil.copy({!r}, os.path.join(os.environ["JITACCESS_VAR"], "jitaccess.sqlite3"))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Temporary folders are made in `folder`; what names a real installation must not matter."""
    folder.mkdir()
    mine = {"JITACCESS_VAR": str(folder.parent / "mine"), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    return dict(os.environ) | mine | {"TMPDIR": str(folder), "PYTHONUTF8": "1", "COLUMNS": "80"} | more


def tell(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "demo", "--fast"], env=env, cwd=ROOT, text=True, capture_output=True, check=False, timeout=100
    )


def processes_of(folder: Path) -> list[str]:
    """What runs with this folder in its environment, its arguments or as its working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            known = [process.cwd(), *process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(str(folder) in text for text in known):
            found.append(f"{process.pid} {process.name()}")
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    eventually(lambda: not processes_of(folder), what=lambda: str(processes_of(folder)))
    assert not (folder.parent / "mine").exists()


def test_the_story_is_told_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    told = tell(environment(folder))
    assert told.returncode == 0, told.stdout + told.stderr
    at = 0
    for beat in BEATS:
        found = told.stdout.find(beat, at)
        assert found >= 0, f"{beat!r} is not told in its place:\n{told.stdout}"
        at = found + len(beat)
    assert not {"\x1b", "\r"} & set(told.stdout), "escape codes where there is no terminal"
    assert max(map(len, told.stdout.splitlines())) <= 80
    assert told.stderr == ""
    assert_nothing_is_left(folder)


def test_a_step_that_goes_otherwise_is_named_with_what_came_instead(tmp_path: Path, migrated: str) -> None:
    # A hook in the repository refuses every commit but the first one, which prepares the demo.
    hook = tmp_path / "template" / "hooks" / "pre-commit"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\nif git rev-parse --quiet --verify HEAD; then echo 'not today' >&2; exit 1; fi\n")
    hook.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(MIGRATED.format(migrated))
    folder = tmp_path / "here"
    told = tell(environment(folder, GIT_TEMPLATE_DIR=str(hook.parent.parent), PYTHONPATH=str(tmp_path)))
    assert told.returncode == 1
    assert "Step 6 (The commit goes through) did not go as told" in told.stdout
    assert "told:  the commit goes through" in told.stdout
    assert "Error executing tool git_commit: Hook(" in told.stdout.partition("came:")[2]
    assert "7  A person takes it back" not in told.stdout
    assert "went as told" not in told.stdout
    assert_nothing_is_left(folder)


def test_without_git_it_says_that_it_could_not_start(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    told = tell(environment(folder, PATH=str(tmp_path / "empty")))
    assert told.returncode == 1
    assert "The start did not go as told" in told.stdout
    assert "git is needed for the demo" in told.stdout
    assert "1  Reading works" not in told.stdout
    assert_nothing_is_left(folder)


def test_who_interrupts_it_finds_nothing_left_either(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    story = subprocess.Popen(
        [COMMAND, "demo"], env=environment(folder), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    eventually(lambda: len(processes_of(folder)) > 1, within=30, what="jitaccess up is running")
    story.send_signal(signal.SIGTERM)
    said, _ = story.communicate(timeout=30)
    assert story.returncode == 130
    assert "Interrupted" in said
    assert_nothing_is_left(folder)
