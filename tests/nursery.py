"""Servers in Python from a process that has imported what they need: to import it takes a second of the processor.

What is started in a server's place (`command`) is as small as can be. It hands its standard streams over to what is forked
for it, which is the server itself, in the same folder and environment. Each ends when the other does.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
GIT = "mcp_server_git"
IMPORTS = ("mcp.client.client", "mcp.server.lowlevel", "mcp.server.mcpserver", "mcp.server.stdio", "uvicorn", GIT)
# argv: where the process listens, what is to be run, and its arguments. Without the modules socket and os, whose import
# takes longer than all the rest.
STAND_IN = """
import _socket, posix, sys
told = [*map(b"=".join, posix.environ.items()), b"", posix.getcwdb(), *(one.encode() for one in sys.argv[2:])]
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
server.connect(sys.argv[1])
server.sendmsg([b"\\0".join(told)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
server.recv(1)
"""


def command(program: str, *arguments: str) -> tuple[str, ...]:
    """What starts `program`, a file or a module, with `arguments`: the executable and its arguments."""
    return (sys.executable, "-I", "-S", "-c", STAND_IN, _nursery(), program, *arguments)


def put(var: Path) -> None:
    """Let the installation in `var` start the demo's git server from here instead of from nothing."""
    servers = var / "servers.json"
    content = json.loads(servers.read_text())
    described = content["mcpServers"]["git"]
    own = described["args"][described["args"].index(GIT) + 1 :]
    described["command"], *described["args"] = command(GIT, *own)
    servers.write_text(json.dumps(content))


@functools.cache
def _nursery() -> str:
    """Where the one of this process listens."""
    folder = tempfile.mkdtemp(prefix="jitaccess-nursery-")
    path = f"{folder}/socket"
    start = [sys.executable, "-I", __file__, path]
    process = subprocess.Popen(start, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assert process.stdin
    assert process.stdout
    atexit.register(process.stdin.close)  # it ends when its input does
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    process.wait()  # it has left: whoever looks for children of ours finds none
    return path


def main(path: str) -> None:
    sys.path.insert(0, str(ROOT))
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a copy has ended
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(50)
        if os.fork():
            print("ready", flush=True)
            os._exit(0)
        while 0 not in select.select([listener, 0], [], [])[0]:  # which closes with who started us
            asked, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _become(asked)
            asked.close()


def _become(asked: socket.socket) -> NoReturn:
    """In the copy."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    told, streams, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    whole = os.fsdecode(told).split("\0")
    end = whole.index("")  # of the environment
    os.environ.clear()
    os.environ.update(line.split("=", 1) for line in whole[:end])
    os.chdir(whole[end + 1])
    threading.Thread(target=lambda: (asked.recv(1), os._exit(0)), daemon=True).start()  # the stand-in was ended
    program, sys.argv = whole[end + 2], whole[end + 2 :]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
