"""An installation under load: agents call and ask, people approve and revoke, and everything they were told is remembered.

On SQLite it is one `jitaccess up`, on PostgreSQL a web process (with worker, beat and sequencer) or two, and two
gateways; with Redis a worker and a beat of their own. Nobody here minds a process that is down: they ask again, as clients do.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import psycopg

from tests.gateway.harness import DENY, Client
from tests.installation import MADE, Installation, Person, Process, eventually

WITNESS = str(Path(__file__).with_name("witness.py"))
UPSTREAM = "io.jitaccess/upstream_error"
PEOPLE = ("anna", "bert")
CALLERS = 4
# Between two calls of a client, and two steps of a person: while a fault is awaited, and else.
CALL_PAUSES = (0.05, 1.0)
ROUND_PAUSES = (0.2, 1.5)
HOLD_SECONDS = 5.0
TOKEN_SECONDS = 2400.0
WAYS = ("revoke", "release", "expire")


@dataclass(frozen=True)
class Answer:
    """What a client was told about one call. `kind` is done, refused, failed, or lost (it was told nothing)."""

    nonce: str
    kind: str
    detail: str
    seconds: float


@dataclass
class Ready:
    """A prepared installation, stopped: what worlds are copies of. `cookies` are of people who have signed in."""

    installation: Installation
    token: str
    born: float
    cookies: dict[str, dict[str, str]]

    @classmethod
    def read(cls, installation: Installation) -> Ready:
        """Of one that is `prepared`."""
        return cls(installation, **json.loads((installation.var / MADE).read_text()))


def put_the_witness(installation: Installation) -> None:
    """In the place of the demo's server."""
    servers = installation.var / "servers.json"
    content = json.loads(servers.read_text())
    content["mcpServers"]["git"] = {
        "command": sys.executable,
        "args": ["-I", "-S", WITNESS, str(installation.var / "effects")],
        "era": "modern",
        "shared": True,
    }
    servers.write_text(json.dumps(content))


class Away(Exception):
    """It could not be asked, or refused to answer: ask again later."""


@dataclass
class World:
    """One installation and its load. `approvals` and `ends` are those that a person or an agent was told had happened."""

    installation: Installation
    ready: Ready
    answers: list[Answer] = field(default_factory=list)
    approvals: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    shifts: list[tuple[float, float]] = field(default_factory=list)
    way: str = "revoke"
    webs: int = 1
    filler: int = 0
    roles: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = self.installation.var / "steps"
        self.steps.mkdir(exist_ok=True)
        self.installation.environment["JITACCESS_TEST_STEPS"] = str(self.steps)
        self.rush = threading.Event()
        self.hurry = threading.Event()
        self._shifting = threading.Lock()
        self._token, self._born = self.ready.token, self.ready.born
        self._approved_at = 0.0
        self._clients = [httpx2.Client(timeout=40, trust_env=False) for _ in range(CALLERS + len(PEOPLE) + 1)]
        self._people = []
        for name in PEOPLE:
            person = Person("http://127.0.0.1")
            for cookie, value in self.ready.cookies[name].items():
                person.http.cookies.set(cookie, value, domain="127.0.0.1")
            self._people.append(person)

    # processes

    @property
    def _commands(self) -> dict[str, str]:
        if self.installation.database_url:
            roles = {"web": "web", "other web": "web", "gateway": "gateway", "other gateway": "gateway"}
            if "REDIS_URL" in self.installation.environment:
                roles |= {"worker": "worker", "beat": "beat"}
            return roles if self.webs > 1 else {role: roles[role] for role in roles if role != "other web"}
        return {"up": "up"}

    def start(self) -> None:
        """Bring up what is not running, all at once, and wait until it is."""
        for role, command in self._commands.items():
            process = self.roles.get(role)
            if process is not None and process.popen.poll() is not None:
                process.stop()
                self.installation.processes.remove(process)
                process = None
            if process is None:
                self.roles[role] = self.installation.launch(command)
        for process in self.roles.values():
            if not process.url:
                process.wait_ready()

    def kill(self, *roles: str) -> None:
        for role in roles:
            self.roles[role].stop(signal.SIGKILL)

    def launch(self, *roles: str) -> None:
        """Start these again without waiting for them."""
        for role in roles:
            self.roles[role].stop()
            self.installation.processes.remove(self.roles[role])
            self.roles[role] = self.installation.launch(self._commands[role])

    @property
    def web_roles(self) -> list[str]:
        return [role for role, command in self._commands.items() if command in {"web", "up"}]

    @property
    def gateways(self) -> list[str]:
        """URLs."""
        return [self.roles[role].url for role, command in self._commands.items() if command in {"gateway", "up"}]

    def process_of(self, pid: int) -> Process:
        return next(process for process in self.roles.values() if process.popen.pid == pid)

    def close(self) -> None:
        for process in self.roles.values():
            process.stop(signal.SIGKILL)  # ends a frozen one too
        self.installation.processes.clear()
        for client in (*self._clients, *(person.http for person in self._people)):
            client.close()

    def said(self) -> str:
        """The last words of each process."""
        return "\n".join(f"[{role}] {line}" for role, process in self.roles.items() for line in process.lines[-8:])

    # steps

    def arm(self, label: str, sig: signal.Signals) -> None:
        """The first process that comes to `label` sends itself `sig`."""
        draft = self.steps / ".draft"
        draft.write_text(sig.name)
        draft.rename(self.steps / label)
        self.rush.set()
        if label.startswith(("approve.", "end.")):
            self.hurry.set()

    def taken(self, label: str) -> int:
        """The process that came to `label`, once one has and the signal has done its work."""

        def found() -> Path | None:
            return next(self.steps.glob(f"{label}.*"), None)

        path = eventually(found, within=40, what=lambda: f"{label} is reached\n{self.said()}")
        pid = int(path.suffix[1:])
        process = self.process_of(pid)
        if path.read_text() == "SIGKILL":
            process.popen.wait(10)
        else:
            eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, what="frozen")
        path.unlink()  # not before: the process reads it
        self.rush.clear()
        self.hurry.clear()
        return pid

    # time

    def pass_time(self, seconds: float) -> None:
        """On the database's clock, for everybody."""
        with self._shifting:
            total = seconds + (self.shifts[-1][1] if self.shifts else 0)
            self.shifts.append((time.time(), total))

            def shifted() -> bool:
                # The database itself may be what is struck just now; to say it twice changes nothing.
                with contextlib.suppress(psycopg.OperationalError):
                    self.installation.shift_clock(total)
                    return True
                return False

            eventually(shifted, within=30, every=0.3)

    def shifted(self, at: float) -> float:
        """What the database's clock said at `at`, at the latest, in seconds since the epoch."""
        return at + next((total for since, total in reversed(self.shifts) if since <= at), 0.0)

    def end_lease(self, pid: int) -> None:
        """Of a process that is dead: others need not wait until they may believe it. On SQLite there are no others."""
        if self.installation.database_url:
            self.installation.execute(
                f"UPDATE jit_gateway_gatewayinstance SET lease_until = jit_now() WHERE pid = {pid}"
            )

    def renew_token(self) -> None:
        """A new one, when the old will not be good for much longer."""
        now = self.shifted(time.time())
        if now - self._born > TOKEN_SECONDS:
            self._token, self._born = self.installation.token("--ttl", "60m"), now

    @property
    def token(self) -> str:
        return self._token

    # load

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Agents and people at work meanwhile; at the end everybody has the answer to their last question."""
        over = threading.Event()
        broken: list[BaseException] = []

        def forever(work: Callable[[], None], pauses: tuple[float, float], rush: threading.Event) -> None:
            try:
                while not over.is_set():
                    with contextlib.suppress(Away):
                        work()
                    if rush.wait(pauses[1]):
                        over.wait(pauses[0])
            except BaseException as error:  # noqa: BLE001 - raised again below
                broken.append(error)

        jobs: list[tuple[Any, ...]] = [
            (lambda number=number: self._some_call(number), CALL_PAUSES, self.rush) for number in range(CALLERS)
        ]
        jobs += [
            (lambda number=number: self._round(number), ROUND_PAUSES, self.hurry)
            for number in range(len(self.web_roles))
        ]
        threads = [threading.Thread(target=forever, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            self.rush.set()
            self.hurry.set()
            for thread in threads:
                thread.join(60)
        self.rush.clear()
        self.hurry.clear()
        assert not any(thread.is_alive() for thread in threads), "somebody never got an answer"
        if broken:
            raise broken[0]

    def _some_call(self, number: int) -> None:
        gateways = self.gateways
        url = gateways[number % len(gateways)]
        if not url:
            raise Away
        # Both at each gateway: one of them is always allowed, whoever is down.
        tool = "git_add" if number // len(gateways) % 2 else "git_log"
        self.answers.append(self.call(url, tool, client=self._clients[number]))

    def call(self, url: str, tool: str, *, client: httpx2.Client | None = None) -> Answer:
        """One call with a nonce of its own."""
        agent = Client(url, self._token, http=client or self._clients[-1])
        nonce, begun = uuid4().hex, time.monotonic()
        # Random: a database must not be able to make it small. In parts: the ledger cuts what is long.
        arguments = {"nonce": nonce, "filler": [secrets.token_hex(240) for _ in range(self.filler)]}
        message = agent.message("tools/call", {"name": tool, "arguments": arguments})
        try:
            response = agent.post(message)
            kind, detail = understood(response)
        except (httpx2.HTTPError, ValueError) as error:
            kind, detail = "lost", repr(error)
        return Answer(nonce, kind, detail, time.monotonic() - begun)

    def works(self) -> None:
        """Wait until calls succeed in every gateway and pages are served by every web process, without a hand."""
        for url in self.gateways:
            said: list[Answer] = []

            def call(url: str = url, said: list[Answer] = said) -> bool:
                said.append(self.call(url, "git_log"))
                self.answers.append(said[-1])
                return said[-1].kind == "done"

            eventually(
                call, within=60, every=0.2, what=lambda said=said: f"calls work again: {said[-1]}\n{self.said()}"
            )
        for role in self.web_roles:
            eventually(lambda role=role: self._page(role), within=60, what=lambda: f"pages work again\n{self.said()}")

    def _page(self, role: str) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return self._clients[-1].get(self.roles[role].url + "/accounts/login/").status_code == 200
        return False

    # access: one step nearer to the end of the present request or grant, wherever faults have left it

    def _round(self, number: int) -> None:
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            state = self._use(number, "my_access")
            if state["pending"]:
                self._approve(number, state["pending"][0]["request_id"])
            elif not state["grants"]:
                self._use(number, "request_access", tools=["git_add"], reason="to stage it", minutes=1)
            elif self.hurry.is_set() or time.monotonic() - self._approved_at > HOLD_SECONDS:
                self._end(number, state["grants"][0]["grant_id"])

    def _approve(self, number: int, request_id: str) -> None:
        answer = self._person(number).decide(request_id, "approve")
        if answer.status_code == 200 and "Approved. Access began" in answer.text:
            self._approved_at = time.monotonic()
            self.approvals.add(request_id)

    def _end(self, number: int, grant_id: str) -> None:
        if self.way == "expire":
            self.pass_time(61)
        elif self.way == "release":
            self._use(number, "release_access", grant_id=grant_id)
            self.ends.add(grant_id)
        else:
            answer = self._person(number).post(f"/grants/{grant_id}/revoke/")
            if answer.status_code == 200 and "Revoked. The next call is refused." in answer.text:
                self.ends.add(grant_id)

    def _person(self, number: int) -> Person:
        roles = self.web_roles
        person = self._people[number]
        url = self.roles[roles[number % len(roles)]].url
        if not url:
            raise Away
        person.http.base_url = url
        return person

    def _use(self, number: int, tool: str, **arguments: Any) -> dict[str, Any]:
        """What an access tool said. Raises Away when it refused."""
        gateways = self.gateways
        url = gateways[number % len(gateways)]
        if not url:
            raise Away
        agent = Client(url, self._token, http=self._clients[CALLERS + number])
        answer = agent.post(agent.message("tools/call", {"name": tool, "arguments": arguments})).json()
        result = answer.get("result", {})
        if "structuredContent" in result:
            return dict(result["structuredContent"])
        if result.get("_meta", {}).get(DENY, {}).get("error") == "request.too_many_filings":
            self.pass_time(3601)
            self.renew_token()
        raise Away


def understood(response: httpx2.Response) -> tuple[str, str]:
    if response.status_code in {401, 503}:
        return "refused", str(response.status_code)
    if response.status_code != 200:
        return "odd", f"{response.status_code}: {response.text[:200]}"
    answer = response.json()
    if "result" not in answer:
        return "odd", response.text[:200]
    meta = answer["result"].get("_meta", {})
    if DENY in meta:
        return "refused", str(meta[DENY].get("reason_code"))
    if UPSTREAM in meta:
        return "failed", "sent" if meta[UPSTREAM]["sent"] else "not sent"
    return "done", answer["result"]["content"][0]["text"]
