"""A second process that changes policy, through the services, at a steady rate. Its parent tells it what, on stdin.

It reads a JSON object, says "ready", reads the moment to begin, and in the end writes a JSON line for each write.
Moments are CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import collections
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connection

from bench.client import ECHO, SERVER
from bench.world import OPERATOR
from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import set_agent_enabled
from jitaccess.policy.models import Role, RoleBinding
from jitaccess.policy.services import bind_role, end_binding
from requests_app.services import revoke_grant

# Models can only be imported once Django is set up.
COMMAND = (sys.executable, "-c", "import django; django.setup(); from bench.writer import main; main()")


class Writer:
    """The writes, by number: which kind comes when is fixed. Of every `among` one, in the middle, revokes a grant."""

    def __init__(self, *, among: int, grants: list[str], spare: list[str]) -> None:
        self._among, self._grants = among, [UUID(grant) for grant in grants]
        self._admin = User.objects.get(username="admin")
        self._roles = list(Role.objects.filter(name__startswith="writer-"))
        self._agents = list(Agent.objects.filter(name__in=spare))
        self._tools = list(Tool.objects.exclude(server__slug__in=(SERVER, ECHO)).select_related("server"))
        self._bound: collections.deque[RoleBinding] = collections.deque()

    def write(self, number: int) -> dict[str, Any]:
        """One policy write; says its kind, and of a revoke the grant."""
        turn, place = divmod(number, self._among)
        if place == self._among // 2 and turn < len(self._grants):
            revoke_grant(grant_id=self._grants[turn], user=self._admin)
            return {"kind": "revoke", "grant": str(self._grants[turn])}
        kinds: list[Callable[[int], str]] = [self._bind, self._end, self._bind, self._end, self._switch, self._classify]
        return {"kind": kinds[number % len(kinds)](number)}

    def _bind(self, number: int) -> str:
        choice = random.Random(number)
        agent, role = choice.choice(self._agents), choice.choice(self._roles)
        self._bound.append(bind_role(role=role, agent=agent, operator=OPERATOR))
        return "binding created"

    def _end(self, number: int) -> str:
        try:
            binding = self._bound.popleft()
        except IndexError:  # the other threads are not that far
            return self._bind(number)
        end_binding(binding=binding, operator=OPERATOR)
        return "binding ended"

    def _switch(self, number: int) -> str:
        agent = self._agents[number % len(self._agents)]
        set_agent_enabled(agent=agent, enabled=not agent.enabled, operator=OPERATOR)
        return "agent switched"

    def _classify(self, number: int) -> str:
        tool = self._tools[number % len(self._tools)]
        access = AccessClass.READ if tool.access == AccessClass.WRITE else AccessClass.WRITE
        classify_tool(tool=tool, access=access, operator=OPERATOR)
        tool.access = access
        return "tool classified"


def main() -> None:
    job = json.loads(sys.stdin.readline())
    writer, threads = Writer(among=job["among"], grants=job["grants"], spare=job["spare"]), job["threads"]
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    total = round(job["rate"] * job["seconds"])
    said: list[list[dict[str, Any]]] = [[] for _ in range(threads)]

    def work(first: int) -> None:
        connection.ensure_connection()
        for number in range(first, total, threads):
            due = start + number / job["rate"]
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            try:
                what = writer.write(number)
            except Exception as error:  # noqa: BLE001 - told to the parent, who counts it
                what = {"kind": "failed", "error": f"{type(error).__name__}: {error}"}
            said[first].append(what | {"due": due, "began": began, "ended": time.monotonic()})
        connection.close()

    running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for line in said:
        print(*map(json.dumps, line), sep="\n", flush=True)
