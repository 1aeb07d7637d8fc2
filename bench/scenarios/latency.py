"""From a decision until every gateway acts on it, and until agents that listen have heard of it.

On PostgreSQL this process decides, through the services, and two gateways have to notice. On SQLite people decide on
the pages of `jitaccess up`, which is one process.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from bench.checks import check_upstream, codes
from bench.client import ALLOWED, PATIENCE, SERVER, Answer, Session, Wrong, drive
from bench.listening import Listener
from bench.place import Place
from bench.report import Report, quantiles
from bench.world import SMALL, Size, World, build
from jitaccess.catalog.models import Tool
from jitaccess.identity.services import authenticate
from jitaccess.policy.engine.rules import Subject
from jitaccess.policy.snapshots import SnapshotStore
from requests_app.models import AccessRequest, Grant
from requests_app.services import Ask, approve_request, revoke_grant, submit_request
from tests.installation import Person

OPTIONS = {
    "trials": (30, "grants, each asked for, approved, used, and revoked"),
    "small": (0, "1: a small policy"),
}
SECONDS = 600


@dataclass(frozen=True, slots=True)
class _Decided:
    """Nothing was decided before `began`. Latency counts from `since`; what was sent after `settled` was sent after the
    commit.
    """

    began: float
    since: float
    settled: float


class _Services:
    """Decides in this process. The commit is taken to be where the service has returned."""

    since = "commit"

    def __init__(self, world: World) -> None:
        self._world = world

    def approve(self, request: AccessRequest) -> _Decided:
        began, approver = time.monotonic(), self._world.approver
        approve_request(request_id=request.pk, approver=approver, channel="cli", digest=request.digest)
        return _Decided(began, moment := time.monotonic(), moment)

    def revoke(self, grant: Grant) -> _Decided:
        began = time.monotonic()
        revoke_grant(grant_id=grant.pk, user=self._world.admin)
        return _Decided(began, moment := time.monotonic(), moment)


class _Pages:
    """Decides in a browser: latency is from the click, and so has the page's own work in it."""

    since = "click"

    def __init__(self, approver: Person, admin: Person) -> None:
        self._approver, self._admin = approver, admin

    def approve(self, request: AccessRequest) -> _Decided:
        return self._post(self._approver, f"/requests/{request.pk}/approve/", digest=request.digest)

    def revoke(self, grant: Grant) -> _Decided:
        return self._post(self._admin, f"/grants/{grant.pk}/revoke/")

    def _post(self, person: Person, path: str, **fields: str) -> _Decided:
        form = {"csrfmiddlewaretoken": person.http.cookies.get("csrftoken") or "", **fields}
        began = time.monotonic()
        answer = person.http.post(
            path, data=form, headers={"referer": str(person.http.base_url)}, follow_redirects=False
        )
        if answer.status_code != 302:
            raise Wrong(f"{path}: HTTP {answer.status_code}: {answer.text[:400]}")
        return _Decided(began, began, time.monotonic())


@dataclass(slots=True)
class _Trial:
    """One request, by gateway: calls without a pause from before the approval to after the revoke, and a stream."""

    request: UUID
    answers: dict[str, list[Answer]]
    streams: dict[str, list[float]] = field(default_factory=dict)
    approved: _Decided = field(default_factory=lambda: _Decided(0, 0, 0))
    revoked: _Decided = field(default_factory=lambda: _Decided(0, 0, 0))


def run(place: Place, options: Namespace) -> Report:
    """Trials one after the other, so that nothing but the gateway is waited for."""
    report = Report("latency", place.database)
    world = build(SMALL if options.small else Size())
    place.start(gateways=2)
    desk = _desk(place, world)
    trials = drive(_trials(place, world, desk, options.trials))
    _verify(report, place, trials)
    _tell(report, trials, desk.since)
    return report


def _desk(place: Place, world: World) -> _Services | _Pages:
    if place.installation.database_url:
        return _Services(world)
    url = place.urls[0]
    return _Pages(*(place.installation.sign_in(one.username, url) for one in (world.approver, world.admin)))


async def _trials(place: Place, world: World, desk: _Services | _Pages, count: int) -> list[_Trial]:
    store = SnapshotStore()
    return [await _trial(place, world, desk, store, number) for number in range(count)]


def _ask(world: World, who: int, tool: Tool, store: SnapshotStore) -> AccessRequest:
    principal = authenticate(world.tokens[who], source="127.0.0.1")
    snapshot, _ = store.look(Subject(agent=principal.agent, user=None))
    ask = Ask(tools=[(SERVER, tool.name)], reason="to be measured", seconds=SECONDS)
    return submit_request(principal=principal, ask=ask, snapshot=snapshot).request


async def _trial(place: Place, world: World, desk: _Services | _Pages, store: SnapshotStore, number: int) -> _Trial:
    who, tool = number % len(world.agents), world.write[number % len(world.write)]
    request = await asyncio.to_thread(_ask, world, who, tool, store)
    trial = _Trial(request.pk, {url: [] for url in place.urls})
    listeners = {url: await Listener.open(url, world.tokens[who]) for url in place.urls}
    over = asyncio.Event()

    async def calls(url: str) -> None:
        session = Session(url, world.tokens[who], agent=who)
        while not over.is_set():
            trial.answers[url].append(await session.call(tool.name))
        session.close()

    async with asyncio.TaskGroup() as group:
        for url in place.urls:
            group.create_task(calls(url))
        await _until(lambda: all(trial.answers.values()), "a call was answered")
        trial.approved = await asyncio.to_thread(desk.approve, request)
        await _until(lambda: all(found[-1].allowed for found in trial.answers.values()), "an approval was felt")
        await _until(lambda: all(one.changes for one in listeners.values()), "an approval was heard of")
        grant = await asyncio.to_thread(Grant.objects.get, request=request)
        trial.revoked = await asyncio.to_thread(desk.revoke, grant)
        await _until(lambda: not any(found[-1].allowed for found in trial.answers.values()), "a revoke was felt")
        await _until(lambda: all(len(one.changes) > 1 for one in listeners.values()), "a revoke was heard of")
        over.set()
    for url, listener in listeners.items():
        await listener.close()
        trial.streams[url] = listener.changes
    return trial


async def _until(happened: Callable[[], bool], what: str) -> None:
    """Wait for what others write down with its moment; how often this looks is in no figure."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise Wrong(f"not within {PATIENCE:.0f} seconds: {what}")
        await asyncio.sleep(0.005)


def _verify(report: Report, place: Place, trials: list[_Trial]) -> None:
    everything = [one for trial in trials for answers in trial.answers.values() for one in answers]
    check_upstream(report, place, everything)
    for trial in trials:
        for one in (one for answers in trial.answers.values() for one in answers):
            early, late = one.got < trial.approved.began, one.sent > trial.revoked.settled
            sentence = f"request {trial.request}: {one.nonce} was allowed {'before its approval' if early else ''}"
            report.check(not (one.allowed and early), sentence)
            report.check(not (one.allowed and late), f"{sentence}after its revoke")
        for url, changes in trial.streams.items():
            report.check(len(changes) == 2, f"request {trial.request}: {url} told of {len(changes)} changes")
    report.figures |= {"trials": len(trials), "calls": len(everything)}


def _tell(report: Report, trials: list[_Trial], since: str) -> None:
    measured: dict[str, list[float]] = {
        f"{since} of an approval to the first allowed call": [],
        f"{since} of an approval to list_changed": [],
        f"{since} of a revoke to the first refusal": [],
        f"{since} of a revoke to list_changed": [],
    }
    usable, told, refused, untold = measured.values()
    between: list[Answer] = []
    for trial in trials:
        for url, answers in trial.answers.items():
            start, end = trial.approved, trial.revoked
            usable.append(next(one.got for one in answers if one.allowed) - start.since)
            refused.append(next(one.got for one in answers if one.sent > end.since and not one.allowed) - end.since)
            told.append(trial.streams[url][0] - start.since)
            untold.append(trial.streams[url][1] - end.since)
            between += [one for one in answers if start.settled < one.sent and one.got < end.since]
    rows = []
    for what, seconds in measured.items():
        p50, p95, _, most = quantiles(max(0.0, one) for one in seconds)
        rows.append([what, len(seconds), p50, p95, most])
    report.compared(("from", "count", "p50 ms", "p95 ms", "max ms"), rows)
    report.table(("calls sent after the approval and answered before the revoke",), [[codes(between)]])
    report.figures["refused_after_approval"] = sum(one.code != ALLOWED for one in between)
