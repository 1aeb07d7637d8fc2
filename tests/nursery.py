"""Programs made with the official SDK take a second to import it. One process of each test process does, and forks them.

What stands for such a program (`command`) is a process as small as can be. It hands its standard streams over to what was
forked, ends when that ends, and that ends when it does.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
# argv: the socket, and what to run. Without the module socket, whose import takes longer than all the rest.
STAND_IN = """
import _socket, sys
one = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
one.connect(sys.argv[1])
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
one.sendmsg(["\\0".join(sys.argv[2:]).encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
one.recv(1)
"""


def command(program: str, *arguments: str) -> tuple[str, ...]:
    """What starts the Python file `program` with `arguments`: the executable and its arguments."""
    return (sys.executable, "-I", "-S", "-c", STAND_IN, _nursery(), program, *arguments)


@functools.cache
def _nursery() -> str:
    folder = tempfile.mkdtemp(prefix="jitaccess-nursery-")
    path = f"{folder}/socket"
    nursery = [sys.executable, "-m", "tests.nursery", path]
    process = subprocess.Popen(nursery, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assert process.stdin
    assert process.stdout
    atexit.register(process.stdin.close)  # it ends when its input does
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    process.wait()  # it has left: whoever looks for children of ours finds none
    return path


def main(path: str) -> None:
    import mcp.client.client
    import mcp.server.mcpserver
    import mcp.server.stdio
    import uvicorn

    del mcp, uvicorn  # imported: that was all
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as either:
        listener.bind(path)
        listener.listen()
        either.register(listener, selectors.EVENT_READ)
        either.register(sys.stdin, selectors.EVENT_READ)
        if os.fork():
            print("ready", flush=True)
            os._exit(0)
        while not any(key.fileobj is sys.stdin for key, _ in either.select()):  # which closes with who started us
            one, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                either.close()
                break
            one.close()
        else:
            return
    _become(one)


def _become(one: socket.socket) -> None:
    said, streams, _, _ = socket.recv_fds(one, 65536, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    threading.Thread(target=lambda: one.recv(1) or os.kill(os.getpid(), signal.SIGKILL), daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = said.decode().split("\0")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
