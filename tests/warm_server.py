"""Servers in Python from a process that has imported what they need: to import it takes a second of the processor.

What is started in a server's place is as small as can be: it hands its pipes over to a copy of that process and lasts as
long as the copy does. The copy is the server itself, in the same folder and environment, and ends with what was started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = str(Path(__file__).parent.parent)
GIT = "mcp_server_git"
# argv: where the process listens, and the server's arguments. Without socket and os, whose import takes longer than this.
STAND_IN = """
import _socket, posix, sys
told = [*map(b"=".join, posix.environ.items()), b"", posix.getcwdb(), *(one.encode() for one in sys.argv[2:])]
pipes = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
server.connect(sys.argv[1])
server.sendmsg([b"\\0".join(told)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pipes)])
server.recv(1)
"""


@contextlib.contextmanager
def warm(module: str, *imports: str) -> Iterator[str]:
    """A process in which `python -m module` need import nothing of `imports`. Yields where it listens."""
    with tempfile.TemporaryDirectory(prefix="jitaccess-warm-") as folder:
        path = Path(folder, "warm")
        command = [sys.executable, "-I", __file__, str(path), module, *imports]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # it ends when its standard input is closed
            while not path.exists():
                assert process.poll() is None, f"{module} cannot be imported"
                time.sleep(0.02)
            yield str(path)


def arguments(path: str, *more: str) -> list[str]:
    """Those of Python instead of "-m module"."""
    return ["-I", "-S", "-c", STAND_IN, path, *more]


def put(var: Path, path: str) -> None:
    """Let the installation in `var` start the demo's git server from what listens at `path` instead of from nothing."""
    servers = var / "servers.json"
    content = json.loads(servers.read_text())
    described = content["mcpServers"]["git"]
    described["args"] = arguments(path, *described["args"][described["args"].index(GIT) + 1 :])
    servers.write_text(json.dumps(content))


def _listen(path: str, module: str, *imports: str) -> None:
    sys.path.insert(0, ROOT)
    for name in imports:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a copy has ended
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.draft")
        listener.listen(50)
        Path(f"{path}.draft").rename(path)
        while 0 not in select.select([listener, 0], [], [])[0]:
            asked, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _become(asked, module)
            asked.close()


def _become(asked: socket.socket, module: str) -> NoReturn:
    """In the copy."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    told, pipes, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    for number, pipe in enumerate(pipes):
        os.dup2(pipe, number)
        os.close(pipe)
    whole = os.fsdecode(told).split("\0")
    end = whole.index("")  # of the environment
    os.environ.clear()
    os.environ.update(line.split("=", 1) for line in whole[:end])
    os.chdir(whole[end + 1])
    threading.Thread(target=lambda: (asked.recv(1), os._exit(0)), daemon=True).start()  # the script was ended
    sys.argv = [module, *whole[end + 2 :]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        os._exit(0)


if __name__ == "__main__":
    _listen(*sys.argv[1:])
