"""A Redis server (from the wheel, or the system's) on a loopback port: tests start, stop, kill and freeze it."""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def program() -> str:
    """Beside the interpreter, else on the PATH."""
    beside = Path(sys.executable).with_name("redis-server")
    found = str(beside) if beside.exists() else shutil.which("redis-server")
    assert found, "redis-server was not found"
    return found


class Redis:
    """Empty whenever it starts: nothing that jitaccess keeps may live in it."""

    def __init__(self, password: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="jitaccess-redis-"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> Redis:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        if self._password:
            options += ["--requirepass", self._password]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program(), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        atexit.register(self.stop)
        deadline = time.monotonic() + 20
        while not self._answers():
            alive = self._process.poll() is None
            assert alive and time.monotonic() < deadline, (self._folder / "log").read_text()  # noqa: PT018
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        """As stop, without a chance to say good-bye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)
        self._process = None

    def freeze(self) -> None:
        """Connections stay open, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """The raw reply to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self._password:
                connection.sendall(f"AUTH {self._password}\r\n".encode())
                connection.recv(100)
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(10_000)

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith(b"+PONG")
        except OSError:
            return False
