"""A million requests: the lists that people look at, and the end of a hundred thousand grants while others decide."""

from __future__ import annotations

import statistics
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle

import psutil
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bench.client import SERVER
from bench.history import Actors, Scale, fill, people
from bench.place import Place
from bench.report import QUANTILES, Report, quantiles
from bench.world import SMALL, World, build
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.principal import Principal
from jitaccess.policy.engine.rules import Subject
from jitaccess.policy.snapshots import SnapshotStore
from requests_app import earlier, selectors, standing, tasks
from requests_app.models import AccessRequest, Grant
from requests_app.selectors import Q, State
from requests_app.services import Ask, approve_request, revoke_grant, submit_request

OPTIONS = {
    "requests": (1_000_000, "in the history; three of ten were granted"),
    "due": (100_000, "grants that are over without that being written down"),
    "looks": (7, "at each list"),
    "small": (0, "1: few people"),
}
MOST_QUERIES = 20


@dataclass(slots=True)
class _Others:
    """What people do meanwhile, in a thread of their own: how long each step took, in seconds."""

    world: World
    over: threading.Event = field(default_factory=threading.Event)
    took: dict[str, list[float]] = field(default_factory=lambda: {"file": [], "approve": [], "revoke": []})
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        try:
            for agent in cycle(self.world.agents):
                if self.over.wait(0.05):
                    return
                self._decide(Principal(agent=agent.pk, agent_name=agent.name))
        except Exception as error:  # noqa: BLE001 - told as a violation
            self.failed.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    def _decide(self, who: Principal) -> None:
        assert who.agent
        snapshot = SnapshotStore().look(Subject(agent=who.agent))[0]
        ask = Ask(tools=[(SERVER, self.world.write[0].name)], reason="to be measured", seconds=60)
        asked = self._timed("file", lambda: submit_request(principal=who, ask=ask, snapshot=snapshot)).request
        approver = self.world.approver
        said = {"request_id": asked.pk, "approver": approver, "channel": "web", "digest": asked.digest}
        self._timed("approve", lambda: approve_request(**said))
        held = Grant.objects.get(request=asked)
        self._timed("revoke", lambda: revoke_grant(grant_id=held.pk, user=approver))

    def _timed(self, step: str, do: Callable[[], object]) -> object:
        began = time.monotonic()
        done = do()
        self.took[step].append(time.monotonic() - began)
        return done


def run(place: Place, options: Namespace) -> Report:
    """Fill the installation, look at every list, then end what is due."""
    report = Report("workflow-scale", place.database)
    world = build(SMALL)
    many = {"agents": 40, "users": 40, "teams": 10, "live": 50, "pending": 50} if options.small else {}
    grants = options.requests * 3 // 10
    scale = Scale(requests=options.requests, grants=grants, due=min(options.due, grants // 2), **many)
    actors = people(scale)
    fill(scale, actors)
    _look(report, actors, options.looks)
    _sweep(report, world, scale)
    return report


def _lists(actors: Actors) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(who, what, how): for a superuser, for who decides everything, for who decides a twentieth."""
    for name, user in (("superuser", actors.root), ("auditor", actors.auditor), ("member", actors.member)):
        yield name, "inbox", lambda user=user: selectors.desk_of(user)
        for state in (None, *State):
            what = f"requests, {state or 'all'}"
            yield name, what, lambda user=user, state=state: selectors.page_of_requests(user, state=state)
        wheres = {
            "of an agent": Q(agent=actors.agents[7].pk),
            "for a person": Q(user=actors.users[7].pk),
            "about a server": selectors.asks_of_server(actors.servers[2].slug),
        }
        for what, where in wheres.items():
            yield name, f"requests {what}", lambda user=user, where=where: selectors.page_of_requests(user, where=where)
        for live in (True, False):
            what = f"grants, {'live' if live else 'ended'}"
            yield name, what, lambda user=user, live=live: selectors.page_of_grants(user, live=live)
    asked = AccessRequest.objects.filter(status="approved", policy_name="history").latest("pk")
    yield "auditor", "one request", lambda: standing.look_at(actors.auditor, asked.pk)
    yield "auditor", "its history", lambda: earlier.history_of(asked)
    yield "auditor", "its timeline", lambda: selectors.timeline_of(asked)


def _look(report: Report, actors: Actors, looks: int) -> None:
    rows, most = [], 0
    for who, what, do in _lists(actors):
        took = []
        for _ in range(looks):
            began = time.monotonic()
            do()
            took.append(time.monotonic() - began)
        with CaptureQueriesContext(connection) as queries:
            do()
        most = max(most, len(queries))
        report.check(len(queries) <= MOST_QUERIES, f"{what} for {who} takes {len(queries)} queries")
        rows.append([what, who, len(queries), f"{1000 * statistics.median(took):.1f}", f"{1000 * max(took):.1f}"])
    report.figures |= {"lists": len(rows), "most_queries": most}
    report.compared(("list", "for", "queries", "median ms", "max ms"), rows)


def _sweep(report: Report, world: World, scale: Scale) -> None:
    others, process = _Others(world), psutil.Process()
    thread = threading.Thread(target=others.run)
    before, most, rounds, done = process.memory_info().rss, 0, 0, 0
    thread.start()
    began = time.monotonic()
    while ended := tasks.end_due_grants():
        done, rounds = done + ended, rounds + 1
        most = max(most, process.memory_info().rss)
    took = time.monotonic() - began
    others.over.set()
    thread.join()
    written = Entry.objects.filter(event=Event.GRANT_EXPIRED).count()
    live = Grant.objects.filter(ended_at=None, request__policy_name="history").count()
    report.check(done == written == scale.due, f"{done} ends of {scale.due} were written, with {written} entries")
    report.check(live == scale.live, f"{live} grants go on instead of {scale.live}")
    report.check(not others.failed, f"somebody could not decide meanwhile: {'; '.join(others.failed)}")
    report.figures |= {"ended": done, "rounds": rounds, "seconds": took, "decided": len(others.took["revoke"])}
    grown = (most - before) / 2**20
    report.table(
        ("grants ended", "rounds", "seconds", "a second", "memory grew by, MiB"),
        [[f"{done:,}", rounds, f"{took:.0f}", f"{done / took:.0f}", f"{grown:.1f}"]],
    )
    steps = [[step, len(took), *(f"{one:.1f}" for one in quantiles(took))] for step, took in others.took.items()]
    report.table(("meanwhile", "count", *QUANTILES), steps)
