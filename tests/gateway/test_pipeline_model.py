"""The whole pipeline against the model, over HTTP, with servers that look for the authorization of all they receive.

A random walk: policy changes and time passes under calls of several principals in both eras. The model says which calls
are allowed. Every call that arrives is looked up in the ledger before it is answered, by a connection of its own: what is
not committed is not there. In the end everything is on record, exactly once.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from django.db import connections
from django.db.models import QuerySet

from jitaccess.audit.models import Entry
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.identity.models import AccessToken
from jitaccess.kernel.ids import new_token, token_hash
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.models import BindingUse
from jitaccess.store.clock import now
from tests.clocks import Clock
from tests.entered import enter_all
from tests.gateway.harness import DENY, NO_ENDS, Client, Served, data, eventually, ledger, refusals, serve, settled
from tests.gateway.pipeline_world import Placed, Question, allowed, change, key, placed
from tests.gateway.upstream.web_server import Seen, WebServer, threaded
from tests.policy import model
from tests.policy.worlds import CALLS, NAMES

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(400)]
NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
SEEDS = range(40) if NIGHTLY else (20260728, 4)
STEPS, EACH = 40, 5
# Two for each agent of a world of two: alone, and for a user.
SIZE = 2
Key = tuple[str, str, str]


@dataclass
class Witness:
    """What reached a server, and whether the ledger knew of it then."""

    slug: str
    arrived: list[Key] = field(default_factory=list)
    untold: list[Key] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def call(self, seen: Seen) -> web.StreamResponse:
        params = seen.message["params"]
        what = (self.slug, str(params["name"]), arguments_digest(params.get("arguments")))
        await asyncio.to_thread(self.look, what)
        text = json.dumps(params["arguments"], sort_keys=True)
        match len(self.arrived) % 11:
            case 5:
                return seen.error(-32099, "I refuse")
            case 7:
                return seen.json(
                    {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": True}
                )
        return seen.json({"resultType": "complete", "content": [{"type": "text", "text": text}]})

    def look(self, what: Key) -> None:
        """As many authorizations are committed as calls have arrived, this one included."""
        try:
            enter_all()
            with self.lock:
                self.arrived.append(what)
                digest = f'"args_digest":"{what[2]}"'
                told = Entry.objects.filter(event="call.authorized", server_name=what[0], tool=what[1])
                if told.filter(data__contains=digest).count() < self.arrived.count(what):
                    self.untold.append(what)
        finally:
            connections.close_all()


def begun() -> QuerySet[Entry]:
    return Entry.objects.filter(event="call.authorized").order_by("uid")


def not_sent() -> set[UUID]:
    """The calls that were let through and could not start in time, on a machine that is busy with other things."""
    return set(Entry.objects.filter(event="call.not_sent").values_list("call", flat=True))


def sent_since(before: int, count: int) -> list[Entry]:
    """The authorizations written after the first `before`, without those of which nothing was sent: `count` of them."""
    new = list(begun()[before:])
    if len(new) > count:  # that the others were given up is on record a moment later
        eventually(lambda: sum(one.call not in not_sent() for one in new) <= count, what=f"{count} of {new}")
        new = [one for one in new if one.call not in not_sent()]
    return new


def key_of(entry: Entry) -> Key:
    return entry.server_name, entry.tool, data(entry)["args_digest"]


@contextmanager
def upstreams(*witnesses: Witness) -> Iterator[dict[str, Any]]:
    """The servers, each in one era."""
    eras = zip(witnesses, ("modern", "legacy"), strict=True)
    with threaded(*(WebServer(era, on={"tools/call": one.call}) for one, era in eras)) as servers:
        yield {one.slug: HttpServer(one.slug, server.url, {}) for one, server in zip(witnesses, servers, strict=True)}


@dataclass
class Walk:
    here: Placed
    random: Random
    clock: Clock
    served: Served
    witnesses: dict[str, Witness]
    tokens: dict[tuple[int, int | None], str] = field(default_factory=dict)
    sessions: dict[tuple[int, int | None, str], Client] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    good: list[Question] = field(default_factory=list)

    def client(self, agent: int, user: int | None, slug: str, era: str) -> Client | None:
        """A client in this era; None while the server is not there for it."""
        token = self.tokens.get((agent, user))
        if token is None:
            token = self.tokens[agent, user] = issued(agent, user)
        if era == "modern":
            return Client(self.served.url, token, server=slug, http=self.http)
        if (agent, user, slug) not in self.sessions:
            client = Client(self.served.url, token, server=slug, http=self.http)
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "old", "version": "0"}}
            answer = client.post(client.message("initialize", hello))
            if answer.status_code != 200:
                assert answer.status_code == 404, answer.text
                return None
            client.session = answer.headers["mcp-session-id"]
            self.sessions[agent, user, slug] = client
        return self.sessions[agent, user, slug]

    def ask(self) -> None:
        """One call by somebody, and what became of it everywhere."""
        random, world = self.random, self.here.world
        agent, user = random.randint(1, SIZE), random.choice((None, *world.users))
        server = random.choice(list(world.servers))
        name, arguments = random.choice(NAMES), dict(random.choice(CALLS) or {})
        good = allowed(world, self.here.seconds(now()))
        lost = [one for one in self.good if one not in good]
        if found := random.choice((good, good, lost, [])):
            agent, user, server, name, arguments = random.choice(found)
        slug = world.servers[server].slug
        client = self.client(agent, user, slug, random.choice(("modern", "legacy")))
        if client is None:
            return
        before, witness = begun().count(), self.witnesses[slug]
        arrived, at = len(witness.arrived), self.here.seconds(now())
        done = self.call(client, name, arguments)
        then = self.here.seconds(now())
        # On a slow machine whole seconds pass, and each may begin or end a right.
        moments = (at, then, *range(ceil(at), ceil(then)))
        meant = {model.allowed(world, agent, user, server, name, when, arguments) for when in moments}
        where = (agent, user, slug, name, arguments, at, world)
        assert done in meant, (done, where)
        self.seen["allowed" if done else "denied"] += 1
        if not done:
            self.refused += 1
            assert len(witness.arrived) == arrived, where
            assert not sent_since(before, 0), where
            return
        assert witness.arrived[arrived:] == [(slug, name, arguments_digest(arguments))], where
        (entry,) = sent_since(before, 1)
        assert key_of(entry) == witness.arrived[-1]
        assert (entry.agent, entry.user) == (key(agent), key(user) if user else None)
        tool = _tool(world.servers[server], name)
        self.bindings(entry, [model.Ask(user, world.servers[server], tool, when, arguments) for when in moments])

    def bindings(self, entry: Entry, asks: list[model.Ask]) -> None:
        """The entry names live bindings that allow the call; and a use is gone where uses are counted."""
        named = [UUID(one).int for one in json.loads(entry.bindings)]
        held = {one.id: one for one in self.here.world.bindings}
        assert named
        for number in named:
            binding = held[number]
            assert any(binding.live(one.at) and model.allows(binding, one) for one in asks), (binding, asks)
            assert not binding.spent
            if number in self.here.uses:
                self.here.uses[number] -= 1
                binding.spent = self.here.uses[number] == 0
                self.seen["counted"] += 1
        self.seen["granted"] += entry.grant is not None

    def call(self, client: Client, name: str, arguments: dict[str, Any]) -> bool:
        """Make the call, written in a way of its own; whether it was carried out."""
        message = client.message("tools/call", {"name": name, "arguments": arguments})
        response = client.http.post(
            client.endpoint, content=spelled(message, self.random), headers=client.headers(message)
        )
        if response.status_code == 404:
            return False  # no such server for this principal
        answer = response.json()
        assert answer["id"] == message["id"]
        if "error" in answer:
            assert (answer["error"]["code"], response.status_code) in {(-32602, 200), (-32099, 200)}, answer
            return bool(answer["error"]["code"] == -32099)
        result = answer["result"]
        if DENY in result.get("_meta", {}):
            assert result["isError"], answer
            self.seen[str(result["_meta"][DENY]["reason_code"])] += 1
            return False
        assert json.loads(result["content"][0]["text"]) == arguments, answer
        return True

    def burst(self) -> None:
        """The same call by several at once, while its uses are counted: never more than there are."""
        granted = [
            one for one in self.here.world.bindings if self.here.uses.get(one.id) and one.whose[0] in {"agent", "pair"}
        ]
        if not granted:
            return
        binding = self.random.choice(granted)
        agent, user = int(binding.whose[1]), int(binding.whose[2]) if len(binding.whose) > 2 else None  # type: ignore[call-overload]
        slug, name = (
            self.random.choice([one.slug for one in self.here.world.servers.values()]),
            self.random.choice(NAMES),
        )
        clients = [self.client(agent, user, slug, era) for era in ("modern", "legacy")]
        arguments, before = dict(self.random.choice(CALLS) or {}), begun().count()
        arrived = len(self.witnesses[slug].arrived)
        there = [client for client in clients if client is not None] * 2
        with ThreadPoolExecutor(len(there) or 1) as pool:
            answers = list(pool.map(lambda client: self.call(client, name, arguments), there))
        entries = sent_since(before, sum(answers))
        assert len(entries) == sum(answers) == len(self.witnesses[slug].arrived) - arrived
        self.refused += len(answers) - sum(answers)
        for entry in entries:
            for number in (UUID(one).int for one in json.loads(entry.bindings)):
                if number in self.here.uses:
                    self.here.uses[number] -= 1
                    self.seen["counted at once"] += 1
        for one in self.here.world.bindings:
            assert self.here.uses.get(one.id, 0) >= 0
            one.spent = self.here.uses.get(one.id) == 0

    @property
    def http(self) -> Any:
        return self.plain.http

    plain: Any = None


def issued(agent: int, user: int | None) -> str:
    """A token, whether or not one would be issued now: it may have been before."""
    value, since = new_token("jit"), now()
    AccessToken.objects.create(
        agent_id=key(agent), user_id=key(user) if user else None, hash=token_hash(value), issued_by_name="tests",
        created_at=since, expires_at=since + timedelta(hours=1),
    )  # fmt: skip
    return value


def _tool(server: model.Server, name: str) -> model.Tool:
    return next(tool for tool in server.tools if tool.name == name)


def spelled(message: dict[str, Any], random: Random) -> bytes:
    """The same message with other spaces, and escapes where none are needed."""
    text = json.dumps(message, separators=random.choice(((",", ":"), (" , ", " : "), (",\n", ":\t"))))
    if random.random() < 0.5:
        text = text.replace("/srv/", "\\u002fsrv\\/").replace('"path"', '"p\\u0061th"')
    return text.encode()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_reaches_a_server_was_authorized_on_record_and_is_what_was_decided_on(
    seed: int, clock: Clock, settings: Any
) -> None:
    settings.EGRESS_ALLOW, settings.RATE_PER_MINUTE = ["127.0.0.1"], 0
    random = Random(seed)
    began = (datetime.now(UTC) + timedelta(minutes=2)).replace(second=0, microsecond=0)
    clock.at(began + timedelta(seconds=8))
    here = placed(random, SIZE, began)
    witnesses = {slug: Witness(slug) for slug in ("git", "git-2")}
    with upstreams(*witnesses.values()) as configs:
        served = serve(configs)
        try:
            walk = Walk(here, random, clock, served, witnesses)
            with Client(served.url, "") as walk.plain:
                _walk(walk)
            eventually(settled, within=20, what="every call has its end")
        finally:
            served.stop()
    _all_on_record(walk)


def _walk(walk: Walk) -> None:
    for step in range(STEPS):
        walk.good = allowed(walk.here.world, walk.here.seconds(now()))
        walk.seen[change(walk.here, walk.here.seconds(now()))] += 1
        if step % 3 == 0:
            walk.clock.shift(walk.random.choice((0.3, 0.7, 1.5)))
        for _ in range(EACH):
            walk.ask()
        if step % 4 == 0:
            walk.burst()


def _all_on_record(walk: Walk) -> None:
    """Exactly once; and nobody knew of an arrival that the ledger did not know of."""
    assert [one.untold for one in walk.witnesses.values()] == [[], []]
    arrived = Counter(what for one in walk.witnesses.values() for what in one.arrived)
    given_up = not_sent()
    assert arrived == Counter(key_of(one) for one in begun() if one.call not in given_up)
    assert not OpenCall.objects.exists()
    ends = Counter(entry.event for entry in ledger() if entry.event not in NO_ENDS)
    assert ends.pop("call.not_sent", 0) == len(given_up)
    assert set(ends) <= {"call.completed", "call.failed"}
    assert sum(ends.values()) == sum(arrived.values())
    assert refusals() == walk.refused
    left = {row.binding_id.int: row.left for row in BindingUse.objects.all()}
    assert left == walk.here.uses
    assert min(walk.seen["allowed"], walk.seen["denied"]) > 5, walk.seen
