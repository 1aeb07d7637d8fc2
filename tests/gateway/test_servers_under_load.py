"""A server is killed, stopped and slowed while calls to it and to another are under way: nobody else notices, and every
call has one end on record that says what is known of it.
"""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jitaccess.catalog.models import AccessClass
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.policy.models import ServerAccess
from tests.cast import OPERATOR, Cast, definition
from tests.gateway.harness import Served, data, echo, eventually, ledger, settled

pytestmark = pytest.mark.django_db(transaction=True)
UPSTREAM = "io.jitaccess/upstream_error"


class Load:
    """Callers of one server, two in each era."""

    def __init__(self, served: Served, cast: Cast, slug: str) -> None:
        self.answers: list[tuple[str, str]] = []
        self.over = threading.Event()
        self.clients = [served.client(cast) for _ in range(4)]
        for number, client in enumerate(self.clients):
            client.server = slug
            if number % 2:
                client.initialize()
        self.threads = [threading.Thread(target=self.work, args=(client,), daemon=True) for client in self.clients]
        for thread in self.threads:
            thread.start()

    def work(self, client: object) -> None:
        for number in itertools.count():
            if self.over.wait(0.02):
                return
            nonce = f"{id(client)}-{number}"
            result = client.call("git_log", nonce=nonce)  # type: ignore[attr-defined]
            failed = result.get("_meta", {}).get(UPSTREAM)
            self.answers.append((nonce, "done" if failed is None else "sent" if failed["sent"] else "not sent"))

    def done(self) -> int:
        return sum(what == "done" for _, what in self.answers)

    def works(self, *, more: int = 8) -> None:
        wanted = self.done() + more
        eventually(lambda: self.done() >= wanted, within=30, what="calls are answered")

    def finish(self) -> dict[str, str]:
        self.over.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        for client in self.clients:
            client.http.close()
        return dict(self.answers)


def test_a_server_that_is_killed_stopped_and_slowed_under_load_harms_only_its_own_calls(
    cast: Cast, start: Callable[..., Served], tmp_path: Path
) -> None:
    _another(cast)
    records = {slug: tmp_path / slug for slug in ("git", "notes")}
    served = start({slug: echo(record, slug=slug) for slug, record in records.items()}, call_timeout=20.0)
    attacked, spared = (Load(served, cast, slug) for slug in records)
    attacked.works()
    for fault in (_kill, _stop, _slow, _kill):
        before = spared.done()
        fault(str(records["git"]), spared)
        assert spared.done() > before
        attacked.works()
    told = attacked.finish()
    assert set(spared.finish().values()) == {"done"}
    eventually(settled, within=20, what="every call has its end")
    _judge(told, records["git"])


def _another(cast: Cast) -> None:
    server = register_server(slug="notes", operator=OPERATOR)
    import_tools(server=server, definitions=[definition("git_log")], operator=OPERATOR)
    classify_tool(tool=server.tools.get(), access=AccessClass.READ, operator=OPERATOR)
    ServerAccess.objects.create(server=server).teams.add(cast.team)


def _processes(record: str) -> list[psutil.Process]:
    """The server's own, one for each principal."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE and record in child.cmdline()]


def _kill(record: str, others: Load) -> None:
    """While it has calls that it has not answered."""
    stopped = _processes(record)
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    others.works(more=20)
    for process in stopped:
        process.kill()


def _stop(record: str, others: Load) -> None:
    stopped = _processes(record)
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    others.works(more=30)
    for process in stopped:
        process.send_signal(signal.SIGCONT)


def _slow(record: str, others: Load) -> None:
    for _ in range(5):
        _stop_for_a_moment(record, others)


def _stop_for_a_moment(record: str, others: Load) -> None:
    stopped = _processes(record)
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    others.works(more=3)
    for process in stopped:
        process.send_signal(signal.SIGCONT)


def _judge(told: dict[str, str], record: Path) -> None:
    whole, _, _ = record.read_bytes().rpartition(b"\n")
    calls = [json.loads(line) for line in whole.split(b"\n")]
    arrived = Counter(call["params"]["arguments"]["nonce"] for call in calls if call["method"] == "tools/call")
    assert set(arrived.values()) == {1}, "a call was made twice"
    nonces = {
        entry.call: data(entry)["arguments"].get("nonce") for entry in ledger("call.authorized", server_name="git")
    }
    assert set(nonces.values()) == set(told)
    ends = {
        nonces[entry.call]: entry.event
        for entry in ledger()
        if entry.call in nonces and entry.event != "call.authorized"
    }
    for nonce, what in told.items():
        expected = {
            "done": {"call.completed"},
            "sent": {"call.outcome_unknown"},
            "not sent": {"call.failed", "call.not_sent"},
        }
        assert ends[nonce] in expected[what], (what, ends[nonce])
        if what == "done":
            assert nonce in arrived
        if what == "not sent":
            assert nonce not in arrived
    assert "sent" in told.values(), "no call was under way when the server was killed"
