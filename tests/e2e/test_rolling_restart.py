"""Gateways are replaced one after the other under load: what was acknowledged is done and on record once, and what was not
acknowledged was not done, so that whoever hears nothing may ask again.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from collections import Counter
from uuid import uuid4

import httpx2
import pytest

from tests.faults.world import WITNESS, understood
from tests.gateway.harness import Client
from tests.installation import Installation, Process, eventually

NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
pytestmark = [pytest.mark.postgresql_only, pytest.mark.timeout(600 if NIGHTLY else 180)]
ROUNDS = 10 if NIGHTLY else 1
CALLERS = 4
# As long as a balancer may need to see that a gateway is leaving; these callers look each time.
DRAIN = {"JITACCESS_DRAIN_SECONDS": "0.5", "JITACCESS_RATE_PER_MINUTE": "600000", "JITACCESS_RATE_BURST": "10000"}


class Callers:
    """Clients that ask whichever gateway there is, on connections that they keep."""

    def __init__(self, token: str, gateways: list[Process]) -> None:
        self.token, self.gateways = token, gateways
        self.answers: list[tuple[str, str, str]] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def work(self, number: int) -> None:
        with httpx2.Client(timeout=40, trust_env=False) as http:
            for turn in itertools.count(number):
                if self.over.is_set():
                    return
                if url := self.gateways[turn % len(self.gateways)].url:
                    self.call(Client(url, self.token, http=http))

    def call(self, client: Client) -> None:
        nonce = uuid4().hex
        try:
            response = client.post(client.message("tools/call", {"name": "git_log", "arguments": {"nonce": nonce}}))
            self.answers.append((nonce, *understood(response)))
        except httpx2.HTTPError as error:
            self.answers.append((nonce, "lost", type(error).__name__))
            self.over.wait(0.05)

    def some(self, *, more: int = 20) -> None:
        """Wait until so many calls more are answered."""
        wanted = self.done() + more
        eventually(lambda: self.done() >= wanted, within=60, what="calls are answered")

    def done(self) -> int:
        return sum(kind == "done" for _, kind, _ in self.answers)

    def finish(self) -> list[tuple[str, str, str]]:
        self.over.set()
        for thread in self.threads:
            thread.join(45)
        assert not any(thread.is_alive() for thread in self.threads)
        return self.answers


def test_a_rolling_restart_loses_nothing_and_does_nothing_twice(installation: Installation) -> None:
    _put_witness(installation)
    token = installation.ready_token
    gateways = [installation.launch("gateway", env=DRAIN) for _ in range(2)]
    for gateway in gateways:
        gateway.wait_ready()
    callers = Callers(token, gateways)
    callers.some()
    for place in [0, 1] * ROUNDS:
        leaving = gateways[place]
        leaving.popen.send_signal(signal.SIGTERM)
        callers.some()  # the other one serves, and for a while this one
        leaving.popen.wait(30)
        assert leaving.popen.returncode == 0, leaving.output
        callers.some()
        gateways[place] = installation.launch("gateway", env=DRAIN)
        gateways[place].wait_ready()
        callers.some()
    answers = callers.finish()
    lines = "\n".join(line for process in installation.processes for line in process.lines)
    for gateway in gateways:
        gateway.stop(signal.SIGTERM)
    assert "Traceback" not in lines
    _judge(installation, answers)


def _put_witness(installation: Installation) -> None:
    """In the place of the demo's server: a call that it receives is in a file before anything else happens."""
    path = installation.var / "servers.json"
    content = json.loads(path.read_text())
    arguments = ["-I", "-S", WITNESS, str(installation.var / "effects")]
    content["mcpServers"]["git"] = {"command": sys.executable, "args": arguments, "era": "modern", "shared": True}
    path.write_text(json.dumps(content))


def _judge(installation: Installation, answers: list[tuple[str, str, str]]) -> None:
    told = Counter((kind, detail) for _, kind, detail in answers if kind != "done")
    assert {kind for kind, _ in told} <= {"lost", "refused"}, told
    assert all(detail == "503" for kind, detail in told if kind == "refused"), told
    done = Counter(nonce for nonce, kind, _ in answers if kind == "done")
    assert set(done.values()) == {1}
    effects = (installation.var / "effects").read_text().splitlines()
    assert Counter(json.loads(line)["nonce"] for line in effects) == done
    begun, ended = (installation.ledger(event) for event in ("call.authorized", "call.completed"))
    assert Counter(entry["data"]["arguments"]["nonce"] for entry in begun) == done
    assert Counter(entry["call"] for entry in ended) == Counter(entry["call"] for entry in begun)
    assert not installation.query("SELECT 1 FROM jit_gateway_opencall")
