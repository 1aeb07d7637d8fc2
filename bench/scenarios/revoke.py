"""From the commit of a revoke on, no process lets a call through: many agents, two gateway processes."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from bench.checks import check_upstream, codes
from bench.client import ALLOWED, BUSY, Answer, Session, Wrong, drive, together
from bench.place import Place
from bench.report import QUANTILES, Report, quantiles
from bench.world import SMALL, Size, World, build, make_grants
from jitaccess.audit.models import Entry
from jitaccess.policy.models import PolicyVersion
from requests_app.services import revoke_grant

OPTIONS = {
    "trials": (10_000, "revokes"),
    "lanes": (8, "agents whose grants are revoked at once"),
    "small": (0, "1: a small policy"),
}
WITHIN = 1.0


@dataclass(slots=True)
class _Trial:
    """One grant: used through both processes, revoked, refused by both."""

    grant: UUID
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    committed: float = 0.0
    version: int = 0

    @property
    def everything(self) -> list[Answer]:
        return [one for answers in self.answers.values() for one in answers]

    def first_refusals(self) -> list[float]:
        """Seconds from the commit to each process's first refusal of a call sent after it."""
        after = [
            [one.got for one in answers if one.sent > self.committed and not one.allowed]
            for answers in self.answers.values()
        ]
        return [min(found) - self.committed for found in after if found]


def run(place: Place, options: Namespace) -> Report:
    """Run the trials, `lanes` at a time. Needs PostgreSQL: SQLite has one process."""
    report = Report("revoke", place.database)
    world = build(SMALL if options.small else Size())
    place.start(gateways=2)
    started = time.monotonic()
    trials = drive(_trials(place, world, options))
    report.figures["seconds"] = time.monotonic() - started
    _verify(report, place, trials)
    return report


async def _trials(place: Place, world: World, options: Namespace) -> list[_Trial]:
    numbers, trials = count(), []

    async def lane() -> None:
        while (number := next(numbers)) < options.trials:
            trials.append(await _trial(place, world, number))

    await together(*(lane() for _ in range(options.lanes)))
    return trials


async def _trial(place: Place, world: World, number: int) -> _Trial:
    turn, who = divmod(number, len(world.agents))
    tool = world.write[turn % len(world.write)]
    end = datetime.now(UTC) + timedelta(hours=1)
    (grant,) = await asyncio.to_thread(make_grants, [(world.agents[who], tool)], until=[end])
    trial = _Trial(grant.pk, {url: [] for url in place.urls})
    used, over = asyncio.Barrier(len(place.urls) + 1), asyncio.Event()

    async def stream(url: str) -> None:
        """Calls one after the other, before, during and after the revoke."""
        session, answers = Session(url, world.tokens[who], agent=who), trial.answers[url]
        while not (answers and answers[-1].allowed):
            answers.append(await session.call(tool.name))
            if answers[-1].code not in {ALLOWED, BUSY}:
                raise Wrong(f"grant {trial.grant} cannot be used: {answers[-1].code}")
        await used.wait()
        while not over.is_set():
            answers.append(await session.call(tool.name))
        session.close()

    async def after(session: Session, answers: list[Answer]) -> None:
        answers += [await session.call(tool.name) for _ in range(2)]
        session.close()

    async def revoke() -> None:
        ready = [Session(url, world.tokens[who], agent=who) for url in place.urls]
        await asyncio.gather(*(session.open() for session in ready))
        await used.wait()
        trial.committed = await asyncio.to_thread(_revoke, trial.grant, world)
        await together(*(after(session, trial.answers[url]) for session, url in zip(ready, place.urls, strict=True)))
        over.set()
        trial.version = await asyncio.to_thread(PolicyVersion.objects.values_list("version", flat=True).get)

    await together(*(stream(url) for url in place.urls), revoke())
    return trial


def _revoke(grant: UUID, world: World) -> float:
    """Returns the moment after the commit."""
    revoke_grant(grant_id=grant, user=world.admin)
    return time.monotonic()


def _verify(report: Report, place: Place, trials: list[_Trial]) -> None:
    everything = [one for trial in trials for one in trial.everything]
    received = check_upstream(report, place, everything)
    after, in_flight, soonest = [], [], WITHIN
    for trial in trials:
        for one in trial.everything:
            if one.sent > trial.committed:
                after.append(one)
                since = one.sent - trial.committed
                soonest = min(soonest, since)
                sentence = f"grant {trial.grant}: {one.nonce} was sent {_ms(since)} after the commit and allowed"
                report.check(not one.allowed, sentence)
            elif one.got > trial.committed:
                in_flight.append(one)
            for at in received.get(one.nonce, ()):
                report.check(
                    at <= trial.committed + WITHIN,
                    f"grant {trial.grant}: {one.nonce} started {_ms(at - trial.committed)} after the commit",
                )
        report.check(
            len(trial.first_refusals()) == len(place.urls), f"grant {trial.grant}: not refused by every process"
        )
    _verify_versions(report, trials)
    first = [seconds for trial in trials for seconds in trial.first_refusals()]
    report.figures |= {"trials": len(trials), "after": len(after), "in_flight": len(in_flight)}
    report.table(
        ("trials", "calls sent after the commit", "soonest", "of these allowed", "calls in flight at the commit"),
        [[len(trials), len(after), _ms(soonest), sum(one.allowed for one in after), codes(in_flight)]],
    )
    report.table(("first refusal after the commit", *QUANTILES), [["of each process", *quantiles(first)]])
    report.table(("calls after the commit",), [[codes(after)]])


def _verify_versions(report: Report, trials: list[_Trial]) -> None:
    """No entry says that a call was allowed by a policy that knew of the revoke."""
    known = {trial.grant: trial.version for trial in trials}
    entries = Entry.objects.filter(event="call.authorized", grant__isnull=False)
    for grant, version in entries.values_list("grant", "policy_version").iterator():
        assert grant
        assert version
        report.check(
            version < known[grant], f"grant {grant}: allowed at policy version {version}, which is after its revoke"
        )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
