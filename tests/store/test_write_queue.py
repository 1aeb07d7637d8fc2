"""Writers of SQLite take turns. On a database file of the tests' own, whichever database the suite runs on."""

from __future__ import annotations

import fcntl
import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction

from jitaccess.runtime import preflight
from jitaccess.store.sqlite.base import _READS
from jitaccess.store.sqlite.turns import Line, Turn, queue_of
from tests.installation import eventually

pytestmark = pytest.mark.pure

# What another process does: for each line it is sent, one transaction; "hold" stays in it for ever.
OTHER = """
import sys
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "jitaccess.store.sqlite", "NAME": sys.argv[1], "OPTIONS": {
    "transaction_mode": "IMMEDIATE", "timeout": 20}}})
from django.db import connection, transaction
print("ready", flush=True)
for line in sys.stdin:
    with transaction.atomic():
        connection.cursor().execute("INSERT INTO t (who) VALUES (%s)", [line.strip()])
        if line.strip() == "hold":
            print("holds", flush=True)
            sys.stdin.readline()
    print("done", flush=True)
"""


class Database:
    """A file with a table `t`, under the alias "queue"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = queue_of(str(path)).line

    @property
    def connection(self) -> Any:
        return connections["queue"]

    @property
    def turn(self) -> object:
        """What this thread's connection holds."""
        self.connection.ensure_connection()
        return self.connection.connection.turn

    def execute(self, statement: str, *parameters: object) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def write(self, who: str) -> None:
        with transaction.atomic(using="queue"):
            self.execute("INSERT INTO t (who) VALUES (%s)", who)

    def take(self) -> Turn:
        """Take the turn without SQLite's own lock, so that only the queue can make anybody wait."""
        return queue_of(str(self.path)).take(1)

    def written(self) -> list[str]:
        return [who for (who,) in self.execute("SELECT who FROM t ORDER BY id")]

    def waiting(self) -> int:
        """How many threads of this process stand in line, the one with the turn included."""
        return len(self.line._batons)

    def free(self) -> bool:
        """Whether nobody has the turn, here or in another process."""
        return self.waiting() == 0 and not self.locked("turn")

    def locked(self, name: str) -> bool:
        """Whether some process has locked one of the two files."""
        file = os.open(f"{self.path}.{name}", os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(file)


@pytest.fixture
def database(tmp_path: Path, django_db_blocker: Any) -> Iterator[Database]:
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
    }
    settings = {"ENGINE": "jitaccess.store.sqlite", "NAME": tmp_path / "db", "OPTIONS": options}
    connections.settings["queue"] = connections.settings["default"] | settings
    with django_db_blocker.unblock():
        database = Database(tmp_path / "db")
        database.execute("CREATE TABLE t (id integer PRIMARY KEY AUTOINCREMENT, who text)")
        yield database
        database.connection.close()
    del connections["queue"], connections.settings["queue"]


@pytest.fixture
def other(database: Database) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(database.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert heard(process) == "ready"
        yield process
        process.kill()


def tell(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdin
    process.stdin.write(f"{what}\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Do `work` in a thread of its own meanwhile; what it returned or raised is in the list afterwards."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except DatabaseError as error:
            results.append(error)
        finally:
            connections["queue"].close()

    thread = threading.Thread(target=run)
    thread.start()
    yield results
    thread.join(30)
    assert not thread.is_alive(), "it waits for ever"


def test_threads_write_in_the_order_of_their_coming(database: Database) -> None:
    threads = []
    with transaction.atomic(using="queue"):
        for number in range(12):
            writer = beside(lambda number=number: database.write(f"{number}"))
            writer.__enter__()
            threads.append(writer)
            eventually(lambda number=number: database.waiting() == number + 2)
        assert database.written() == []
    for writer in threads:
        writer.__exit__(None, None, None)
    assert database.written() == [f"{number}" for number in range(12)]
    assert database.free()


def test_another_process_is_next_although_this_one_writes_back_to_back(
    database: Database, other: subprocess.Popen[str]
) -> None:
    for _ in range(5):
        with transaction.atomic(using="queue"):
            database.execute("INSERT INTO t (who) VALUES ('last before')")
            tell(other, "other")
            eventually(lambda: database.locked("next"), what="the other process waits")
        for _ in range(20):
            database.write("after")
        assert heard(other) == "done"
    rounds = ["last before", "other", *["after"] * 20] * 5
    assert database.written() == rounds, "not one of ours came between"


def test_every_process_gets_its_turns_while_threads_of_another_never_stop(
    database: Database, other: subprocess.Popen[str]
) -> None:
    stop = threading.Event()

    def back_to_back() -> None:
        while not stop.is_set():
            database.write("ours")

    with beside(back_to_back) as first, beside(back_to_back) as second:
        for _ in range(20):
            tell(other, "other")
            assert heard(other) == "done"
        stop.set()
    assert first == second == [None]
    assert database.written().count("other") == 20
    assert database.free()


def test_the_turn_of_a_killed_process_is_free(database: Database, other: subprocess.Popen[str]) -> None:
    tell(other, "hold")
    assert heard(other) == "holds"
    assert database.locked("turn")
    with beside(lambda: database.write("after its death")) as result:
        eventually(lambda: database.locked("next"), what="we wait")
        assert result == []
        other.kill()
    assert result == [None]
    assert database.written() == ["after its death"]


def test_who_waits_too_long_is_told_so_and_the_others_keep_their_places(database: Database) -> None:
    def impatient() -> None:
        connections["queue"].ensure_connection()
        connections["queue"].connection.patience = 0.05
        database.write("impatient")

    turn = database.take()
    with beside(lambda: database.write("first")) as first:
        eventually(lambda: database.waiting() == 2)
        with beside(impatient) as refused:
            eventually(lambda: database.waiting() == 3 or refused)
            with beside(lambda: database.write("second")) as second:
                eventually(lambda: refused and database.waiting() == 3)
                assert first == second == []
                turn.give_back()
    assert first == second == [None]
    [error] = refused
    assert isinstance(error, OperationalError)
    assert "database is locked: another writer" in str(error)
    assert str(database.path) in str(error)
    assert "0.05 s" in str(error)
    assert database.written() == ["first", "second"]
    assert database.free()


def test_who_waits_too_long_for_another_process_is_told_so_too(
    database: Database, other: subprocess.Popen[str]
) -> None:
    tell(other, "hold")
    assert heard(other) == "holds"
    database.connection.ensure_connection()
    database.connection.connection.patience = 0.05
    with pytest.raises(OperationalError, match="database is locked: another writer"):
        database.write("never")
    assert database.turn is None
    assert database.waiting() == 0
    assert not database.locked("next"), "nobody else is kept waiting"
    tell(other, "")
    assert heard(other) == "done"
    database.write("now")
    assert database.written() == ["hold", "now"]


def test_a_commit_that_fails_frees_the_turn(database: Database) -> None:
    database.execute(
        "CREATE TABLE child (t integer REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
    )
    with pytest.raises(IntegrityError), transaction.atomic(using="queue"):
        database.execute("INSERT INTO child VALUES (4711)")
    assert database.turn is None
    assert database.free()
    assert database.execute("SELECT * FROM child") == []


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_full_disk_frees_the_turn(database: Database, in_transaction: bool) -> None:
    database.execute("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(OperationalError, match="full"):
        if in_transaction:
            with transaction.atomic(using="queue"):
                database.execute("INSERT INTO t (who) VALUES (%s)", "x" * 1_000_000)
        else:
            database.execute("INSERT INTO t (who) VALUES (%s)", "x" * 1_000_000)
    assert database.turn is None
    assert database.free()


def test_a_refused_statement_keeps_the_turn_until_the_transaction_ends(database: Database) -> None:
    with pytest.raises(OperationalError, match="no such table"), transaction.atomic(using="queue"):
        database.execute("INSERT INTO t (who) VALUES ('gone')")
        turn = database.turn
        with pytest.raises(OperationalError), transaction.atomic(using="queue"):
            database.execute("INSERT INTO nowhere VALUES (1)")
        assert database.turn is turn
        assert turn is not None
        database.execute("INSERT INTO nowhere VALUES (1)")
    assert database.free()
    assert database.written() == []


def test_a_transaction_has_one_turn_however_deep_it_is(database: Database) -> None:
    with transaction.atomic(using="queue", durable=True):
        turn = database.turn
        assert turn is not None
        with transaction.atomic(using="queue"), transaction.atomic(using="queue"):
            database.execute("INSERT INTO t (who) VALUES ('inner')")
            assert database.turn is turn
        assert database.turn is turn
        assert database.waiting() == 1
    assert database.turn is None
    assert database.free()


def test_what_runs_on_commit_runs_after_the_turn(database: Database) -> None:
    seen = []
    with transaction.atomic(using="queue"):
        transaction.on_commit(lambda: seen.append(database.free()), using="queue")
    assert seen == [True]


def test_a_connection_that_is_closed_in_a_transaction_gives_its_turn_back(database: Database) -> None:
    with transaction.atomic(using="queue"):
        database.execute("INSERT INTO t (who) VALUES ('lost')")
        database.connection.close()
        assert database.free()
    assert database.written() == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_ends_in_a_transaction_does_not_keep_its_turn(database: Database) -> None:
    thread = threading.Thread(target=lambda: database.execute("BEGIN IMMEDIATE"))
    thread.start()
    thread.join()
    gc.collect()
    assert database.free()
    database.write("the next")
    assert database.written() == ["the next"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t (who) VALUES ('a')",
        "INSERT INTO t (who) VALUES ('a') RETURNING id",
        "UPDATE t SET who = 'b' RETURNING id",
        "CREATE TABLE u (a)",
        "VACUUM",
    ],
)
def test_a_statement_of_its_own_takes_a_turn_and_gives_it_back(database: Database, statement: str) -> None:
    turn = database.take()
    with beside(lambda: database.execute(statement)) as result:
        eventually(lambda: database.waiting() == 2)
        assert result == []
        turn.give_back()
    assert isinstance(result[0], list)
    assert database.free()


def test_many_rows_are_one_turn(database: Database) -> None:
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t (who) VALUES (%s)", [["a"], ["b"]])
    assert database.free()
    turn = database.take()
    with beside(lambda: many(database)) as result:
        eventually(lambda: database.waiting() == 2)
        assert result == []
        turn.give_back()
    assert result == [None]
    assert database.written() == ["a", "b", "c"]


def test_rows_that_a_write_returns_are_fetched_within_its_turn(database: Database) -> None:
    cursor = database.connection.cursor()
    cursor.execute("INSERT INTO t (who) VALUES ('a') RETURNING id")
    assert not database.free(), "SQLite has not committed yet"
    assert cursor.fetchone() == (1,)
    assert database.free()
    cursor.execute("INSERT INTO t (who) VALUES ('b') RETURNING id")
    cursor.close()
    assert database.free()
    assert database.written() == ["a", "b"]


def test_readers_neither_wait_nor_take_a_turn(database: Database) -> None:
    database.write("there")
    turn = database.take()
    with beside(lambda: (database.written(), deferred(database), database.execute("PRAGMA user_version"))) as read:
        eventually(lambda: read)
        assert database.waiting() == 1
    assert read == [(["there"], ["there"], [(0,)])]
    turn.give_back()
    assert database.free()


def test_a_reader_in_a_transaction_lets_writers_pass(database: Database) -> None:
    database.write("one")
    database.execute("BEGIN DEFERRED")
    assert database.written() == ["one"]
    assert database.free()
    with beside(lambda: database.write("two")) as result:
        pass
    assert result == [None]
    assert database.written() == ["one"], "as it was when it began"
    database.execute("COMMIT")
    assert database.written() == ["one", "two"]


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("SELECT 1", True),
        (" \n-- why\n/* and */ select 1", True),
        ("BEGIN", True),
        ("begin deferred", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("ROLLBACK TO SAVEPOINT s", True),
        ("BEGIN  IMMEDIATE", False),
        ("BEGIN EXCLUSIVE", False),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", False),
        ("/* SELECT */ DELETE FROM t", False),
        ("-- SELECT\nUPDATE t SET a = 1", False),
        ("SELECTED", False),
        ("ANALYZE", False),
        ("", False),
    ],
)
def test_what_is_no_read_for_sure_is_a_write(statement: str, reads: bool) -> None:
    assert bool(_READS.match(statement)) is reads


def test_a_database_in_memory_has_no_queue(database: Database) -> None:
    connections.settings["memory"] = connections.settings["queue"] | {"NAME": ":memory:"}
    try:
        with transaction.atomic(using="queue"), transaction.atomic(using="memory"):
            assert connections["memory"].connection.turn is None
    finally:
        connections["memory"].connection.close()
        del connections["memory"], connections.settings["memory"]
    assert not Path(":memory:.turn").exists()


def test_the_files_beside_the_database_are_for_their_owner_only(database: Database) -> None:
    for name in ("next", "turn"):
        assert Path(f"{database.path}.{name}").stat().st_mode & 0o777 == 0o600


def test_one_may_leave_the_line_from_any_place_even_while_somebody_else_does() -> None:
    line = Line()
    first = line.join(0)
    assert first is not None
    assert line.join(0) is None
    assert list(line._batons) == [first]
    with line._mutex:  # as when the garbage collector closes a connection in the middle of it
        line.leave(first)
    assert line.join(0) is None, "who held the mutex has not looked again"
    assert line.join(0) is not None


def many(database: Database) -> None:
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t (who) VALUES (%s)", iter([["c"]]))


def deferred(database: Database) -> list[str]:
    database.execute("BEGIN DEFERRED")
    try:
        return database.written()
    finally:
        database.execute("COMMIT")


@pytest.mark.parametrize("name", ["next", "turn"])
def test_a_lock_file_that_cannot_be_used_is_named_and_nothing_is_left_open(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"db.{name}"
    path.mkdir()
    queue = queue_of(str(tmp_path / "db"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError) as caught:
            queue.take(1)
        assert str(caught.value) == f"unable to lock {path}: Is a directory"
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1, "at most the file that could be opened, once"
    path.rmdir()
    queue.take(1).give_back()
    queue.turnstile.forget()


def test_nobody_is_told_to_restore_a_backup_because_of_a_lock(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "connection", database.connection)
    (tmp_path / "locked.next").mkdir()
    with pytest.raises(sqlite3.OperationalError) as unusable:
        queue_of(str(tmp_path / "locked")).take(1)
    turn = database.take()
    with pytest.raises(sqlite3.OperationalError) as busy:
        queue_of(str(database.path)).take(0)
    turn.give_back()
    assert "move it away" in preflight.unusable(unusable.value)
    assert "Try again" in preflight.unusable(busy.value)
    for harmless in (unusable.value, busy.value, OperationalError("database is locked")):
        assert "backup" not in preflight.unusable(harmless)
    assert "Restore a backup" in preflight.unusable(OperationalError("file is not a database"))
