"""The installation that the story plays on: a real `jitaccess up` over a temporary folder, and nothing left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from jitaccess.kernel.errors import Unavailable

_READY = re.compile(r"is running on (http://\S+)")
_LINK = re.compile(r"^ +(\w+) .*(http://\S+/sign-in/\S+)$", re.MULTILINE)
_LAST_WORDS = "Stop with Ctrl-C"
_START_SECONDS, _STOP_SECONDS, _COMMAND_SECONDS = 120, 15, 30
# What would take the story to somebody's real installation.
_NOT_OURS = ("JITACCESS_", "DATABASE_URL", "REDIS_URL", "DJANGO_")


class Stage:
    """A context: on leaving, the process is stopped and the folder removed, whatever happened."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jitaccess-demo-"))
        self.var = self.folder / "var"
        self.repository = self.var / "demo" / "repository"
        self._log = self.folder / "up.log"
        self._up: subprocess.Popen[bytes] | None = None
        self._command = str(Path(sys.executable).with_name("jitaccess"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
        self._env = kept | {"JITACCESS_VAR": str(self.var), "JITACCESS_LOG_LEVEL": "WARNING"}
        self.url = ""
        self.links: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """Everything that `jitaccess up` printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self) -> None:
        """Until it serves. Raises Unavailable when git is missing, when it ends before, or takes too long."""
        if not shutil.which("git"):
            raise Unavailable("git.missing", "git is needed for the demo and was not found. Install it.")
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the story, which then stops this in order.
            self._up = subprocess.Popen(  # noqa: ASYNC220, S603 - our own command; starting it takes no time
                [self._command, "up", "--port", "0"],
                env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while _LAST_WORDS not in self.log:
                    if self._up.poll() is not None:
                        raise Unavailable("demo.ended", f"jitaccess up ended with exit code {self._up.returncode}.")
                    await asyncio.sleep(0.05)
        ready = _READY.search(self.log)
        if not ready:
            raise Unavailable("demo.slow", f"jitaccess up was not ready within {_START_SECONDS} seconds.")
        self.url = ready.group(1)
        self.links = dict(_LINK.findall(self.log))

    def stop(self) -> None:
        """As Ctrl-C would; what does not end is killed, with all it started."""
        process, self._up = self._up, None
        if process is None:
            return
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(signal.SIGINT)
                process.wait(_STOP_SECONDS)
        finally:  # a second Ctrl-C too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def run(self, *arguments: str) -> str:
        """What a command of jitaccess prints here. Raises Unavailable when it fails."""
        return await self._run(self._command, *arguments)

    async def git(self, *arguments: str) -> str:
        """What git says about the repository, past jitaccess."""
        return await self._run("git", "-C", str(self.repository), *arguments)

    async def _run(self, *command: str) -> str:
        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(  # noqa: S603 - our own command, and git
                command, env=self._env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False, timeout=_COMMAND_SECONDS,
            )  # fmt: skip

        done = await asyncio.to_thread(work)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            name = " ".join((Path(command[0]).name, *command[1:3]))
            raise Unavailable("demo.command", f"`{name} …` ended with exit code {done.returncode}: {said}")
        return done.stdout.strip()
