"""Real installations: the commands of the README, run as processes of their own, on SQLite or on the run's PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
from psycopg import sql

from tests.clocks import _FUNCTION
from tests.entered import enter

ROOT = Path(__file__).parent.parent
COMMAND = str(Path(sys.executable).with_name("jitaccess"))
READY = re.compile(r"(?:is running|(?:web|gateway|worker|beat)) on (http://\S+)")
ON_POSTGRESQL = os.environ.get("JITACCESS_TEST_DATABASE") == "postgresql"
# Who has signed in already in an installation that is `prepared`.
PEOPLE = ("admin", "olga", "anna", "bert")
# What `jitaccess up` prints for each of them.
LINKS = re.compile(r"^  (\w+) .*(http://\S+/sign-in/\S+)$", re.MULTILINE)
# The file that says so, and has their cookies and a token.
MADE = "made.json"


def eventually(
    check: Callable[[], Any], *, within: float = 10, every: float = 0.05, what: str | Callable[[], str] = ""
) -> Any:
    """The first true value of `check`, asked again and again until the deadline. Times are in seconds."""
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what() if callable(what) else what}")
        time.sleep(every)


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listening(port: int, process: subprocess.Popen[Any]) -> None:
    """Wait until somebody listens there, which only `process` does."""

    def there() -> bool:
        assert process.poll() is None, "it ended"
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    eventually(there, within=30, what="the server listens")


class Process:
    """One running command; its output is collected line by line."""

    def __init__(self, arguments: list[str], env: dict[str, str], *, program: Sequence[str] = ()) -> None:
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            [*(program or (COMMAND,)), *arguments],
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        """Everything it printed so far."""
        return "\n".join(self.lines)

    def wait_ready(self) -> Process:
        def found() -> Any:
            if self.popen.poll() is not None:
                raise AssertionError(f"it ended with {self.popen.returncode}:\n{self.output}")
            return READY.search(self.output)

        self.url = eventually(found, within=60, what="ready").group(1)
        return self

    def stop(self, sig: signal.Signals = signal.SIGINT) -> float:
        """Send a signal and return the seconds until it was gone."""
        started = time.monotonic()
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        self.join()
        return time.monotonic() - started

    def join(self) -> None:
        """Wait until it is gone."""
        self.popen.wait(30)
        self._reader.join(5)
        assert self.popen.stdout
        self.popen.stdout.close()


class Installation:
    """A var/ folder and a database, the processes on them, and the views of a person, an agent and an auditor."""

    def __init__(self, var: Path, database_url: str = "") -> None:
        self.var, self.database_url = var, database_url
        self.environment: dict[str, str] = {}
        self.processes: list[Process] = []
        self._people: list[Person] = []

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "JITACCESS_VAR": str(self.var),
            "JITACCESS_TEST_CLOCK_FILE": str(self.var / "clock"),
            "DATABASE_URL": self.database_url,
            "JITACCESS_LOG_LEVEL": "INFO",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        } | self.environment

    def copy(self, var: Path, *, database_url: str = "") -> Installation:
        """The same installation in another place: the folder, the database, and the demo repository's path in it.

        `database_url` names the database if it was copied already.
        """
        shutil.copytree(self.var, var, ignore=shutil.ignore_patterns("lock"))
        servers = var / "servers.json"
        if servers.exists():
            servers.write_text(servers.read_text().replace(str(self.var), str(var)))
        if self.database_url and not database_url:
            database_url = create_database(template=self.database_url)
        return Installation(var, database_url)

    # processes

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Process:
        return self.launch(*arguments, env=env).wait_ready()

    def launch(self, *arguments: str, env: dict[str, str] | None = None) -> Process:
        """Start a process that may not get as far as being ready."""
        port = ["--health-port", str(free_port())] if {"worker", "beat"} & set(arguments) else ["--port", "0"]
        process = Process([*arguments, *port], self.env | (env or {}))
        self.processes.append(process)
        return process

    def up(self, *arguments: str) -> Process:
        return self.start("up", *arguments)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments], env=self.env, cwd=ROOT, text=True, capture_output=True, check=check, timeout=100
        )

    def stop(self) -> None:
        for person in self._people:
            person.http.close()
        for process in self.processes:  # all at once: each takes a moment
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGINT)
        for process in self.processes:
            process.join()
        self._people.clear()
        self.processes.clear()

    # people and agents

    def token(self, *arguments: str, agent: str = "demo-agent") -> str:
        return self.cli("agents", "token", agent, *arguments).stdout.strip()

    @property
    def ready_token(self) -> str:
        """One for demo-agent, good for an hour, that was issued when this was prepared: each command takes a second."""
        return str(self._made["token"])

    def sign_in(self, username: str, url: str, *, anew: bool = False) -> Person:
        """A person who signed in when this was prepared, else (and `anew`) with a link."""
        cookies = None if anew else self._made["cookies"].get(username)
        if cookies is None:
            person = Person(url, self.cli("people", "link", username).stdout.strip())
        else:
            person = Person(url)
            for name, value in cookies.items():
                person.http.cookies.set(name, value, domain="127.0.0.1")
        self._people.append(person)
        return person

    @property
    def _made(self) -> dict[str, Any]:
        """What `prepared` left."""
        path = self.var / MADE
        return json.loads(path.read_text()) if path.exists() else {"cookies": {}}

    def set_server_era(self, era: str) -> None:
        path = self.var / "servers.json"
        content = json.loads(path.read_text())
        content["mcpServers"]["git"]["era"] = era
        path.write_text(json.dumps(content))

    def commits(self) -> list[str]:
        """Messages of the demo repository, newest first."""
        command = ["git", "log", "--format=%s"]
        return subprocess.run(
            command, cwd=self.var / "demo/repository", text=True, capture_output=True, check=True
        ).stdout.split("\n")

    # the auditor

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of the database, read past the product."""
        return self.queries(statement)[0]

    def queries(self, *statements: str) -> list[list[dict[str, Any]]]:
        """The rows of each, all of the database at one moment."""
        if self.database_url:
            with psycopg.connect(self.database_url, row_factory=psycopg.rows.dict_row) as connection:
                if any("jit_audit_entry" in statement for statement in statements):
                    enter(connection)  # whether its sequencer runs is not the question here
                    connection.commit()
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                return [list(connection.execute(statement)) for statement in statements]
        path = self.var / "jitaccess.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            return [[dict(row) for row in connection.execute(statement)] for statement in statements]

    def execute(self, statement: str) -> None:
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:
                connection.execute(statement)
            return
        with contextlib.closing(sqlite3.connect(self.var / "jitaccess.sqlite3", timeout=20)) as connection, connection:
            connection.execute(statement)

    def ledger(self, *events: str) -> list[dict[str, Any]]:
        """Entries in order of their making, those of `events` if given, with `data` and `bindings` parsed."""
        rows = self.query("SELECT * FROM jit_audit_entry ORDER BY uid")
        for row in rows:
            row["data"], row["bindings"] = json.loads(row["data"]), json.loads(row["bindings"])
        return [row for row in rows if not events or row["event"] in events]

    def shift_clock(self, seconds: float) -> None:
        """Let `seconds` pass on the database's clock, for every process at once."""
        if self.database_url:
            self.execute(_FUNCTION.format(f" + interval ''{seconds} seconds''"))
            return
        draft = self.var / "clock.draft"
        draft.write_text(str(seconds))
        draft.replace(self.var / "clock")


class Person:
    """Somebody at a browser without JavaScript: follows forms, keeps cookies."""

    def __init__(self, url: str, link: str = "") -> None:
        self.http = httpx2.Client(base_url=url, follow_redirects=True, timeout=30)
        if link:
            path = "/" + link.split("/", 3)[3]
            self.http.get(path).raise_for_status()
            self.post(path).raise_for_status()

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(path)

    def post(self, path: str, **data: str) -> httpx2.Response:
        fields = {"csrfmiddlewaretoken": self.http.cookies.get("csrftoken") or "", **data}
        return self.http.post(path, data=fields, headers={"referer": str(self.http.base_url)})

    def decide(self, request_id: str, verb: str, **data: str) -> httpx2.Response:
        """Approve or deny on the request page, with the digest that the page shows."""
        page = self.get(f"/requests/{request_id}/").text
        found = re.search(r'name="digest"\s+value="([^"]+)"', page)
        return self.post(f"/requests/{request_id}/{verb}/", digest=found.group(1) if found else "", **data)


def create_database(*, template: str = "") -> str:
    """A new database on the run's PostgreSQL, or a copy of `template` beside it; returns its URL."""
    server = template or os.environ["JITACCESS_TEST_DATABASE_URL"]
    head, _, tail = server.partition("?")
    base = head.rpartition("/")[0]
    name = f"jit_{uuid4().hex[:12]}"
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        source = template.partition("?")[0].rpartition("/")[2]
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(source))
    with psycopg.connect(f"{base}/postgres?{tail}", autocommit=True) as connection:
        connection.execute(statement)
    return f"{base}/{name}?{tail}"


def _cookies(url: str, link: str) -> dict[str, str]:
    """Of somebody who signs in with this link."""
    person = Person(url, link)
    person.http.close()
    return dict(person.http.cookies)


def prepared(var: Path, *, database_url: str = "", migrated: str = "") -> Installation:
    """An installation after its first start, stopped, with a token and people who have signed in: what tests copy.

    Its database is a copy of the one that is `migrated`, or `database_url`, or a new one.
    """
    if ON_POSTGRESQL:
        database_url = database_url or create_database(template=migrated)
    elif migrated:
        var.mkdir(mode=0o700)
        shutil.copy(migrated, var / "jitaccess.sqlite3")
    installation = Installation(var, database_url)
    try:
        process = installation.up()
        token = installation.token("--ttl", "60m")
        eventually(lambda: len(LINKS.findall(process.output)) == len(PEOPLE), what="links")
        cookies = {name: _cookies(process.url, link) for name, link in LINKS.findall(process.output)}
    finally:
        installation.stop()
    assert process.popen.returncode == 0, process.output
    (var / MADE).write_text(json.dumps({"token": token, "born": time.time(), "cookies": cookies}))
    return installation
