"""`jitaccess` on a machine whose clock is set while it runs: a file says by how many seconds, at any time.

What is moved is what a process asks its machine (time.time(), datetime.now()), not the clocks that nobody can set.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import time_machine

ROOT = Path(__file__).parent.parent
FILE = "JITACCESS_TEST_HOST_CLOCK"
LAUNCHER = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.jumping_host import main
sys.exit(main())
"""


def write_launcher(path: Path) -> str:
    """An executable that stands in for the command `jitaccess`."""
    path.write_text(LAUNCHER)
    path.chmod(0o755)
    return str(path)


def obeyed(file: Path, pid: int) -> Path:
    """Where a process writes what it has obeyed."""
    return file.with_name(f"{file.name}.{pid}")


def main() -> int:
    file = Path(os.environ[FILE])
    traveller = time_machine.travel(time.time()).start()
    time.time()  # its clock begins to run when it is asked for the first time
    by = 0.0

    def obey() -> None:
        nonlocal by
        wanted = float(file.read_text()) if file.exists() else 0.0
        if wanted != by:
            traveller.shift(wanted - by)
            by = wanted
            obeyed(file, os.getpid()).write_text(str(by))

    def watch() -> None:
        while True:
            obey()
            time.sleep(0.01)

    obey()
    threading.Thread(target=watch, daemon=True).start()
    from jitaccess.runtime import cli

    return cli.main()
