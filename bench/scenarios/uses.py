"""A grant for n calls, fifty callers at once in every process there is: n get through, the others do not."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from bench.checks import check_upstream, codes
from bench.client import TOO_MANY, Answer, Session, drive
from bench.place import Place
from bench.report import QUANTILES, Report, quantiles
from bench.world import SMALL, World, build, make_grants
from jitaccess.audit.models import Entry

OPTIONS = {
    "repeat": (50, "times, for each number of uses"),
    "uses": ("3,17", "calls that a grant is good for"),
    "calls": (50, "at once"),
}


@dataclass(frozen=True, slots=True)
class _Trial:
    """One grant for `uses` calls, and the calls that were made at once, and one through each process after them."""

    grant: UUID
    uses: int
    answers: list[Answer]
    afterwards: list[Answer]


def run(place: Place, options: Namespace) -> Report:
    """Trials one after the other, each with a grant of its own."""
    report = Report("uses", place.database)
    world = build(SMALL)
    place.start(gateways=2)
    _verify(report, place, drive(_trials(place, world, options)))
    return report


async def _trials(place: Place, world: World, options: Namespace) -> list[_Trial]:
    wanted = [int(uses) for uses in options.uses.split(",")] * options.repeat
    return [await _trial(place, world, number, uses, options.calls) for number, uses in enumerate(wanted)]


async def _trial(place: Place, world: World, number: int, uses: int, calls: int) -> _Trial:
    turn, who = divmod(number, len(world.agents))
    tool = world.write[turn % len(world.write)]
    end = datetime.now(UTC) + timedelta(hours=1)
    grants = await asyncio.to_thread(make_grants, [(world.agents[who], tool)], until=[end], max_uses=uses)
    sessions = [Session(place.urls[one % len(place.urls)], world.tokens[who], agent=who) for one in range(calls)]
    await asyncio.gather(*(session.open() for session in sessions))
    answers = await asyncio.gather(*(_answered(session, tool.name) for session in sessions))
    afterwards = [await session.call(tool.name) for session in sessions[: len(place.urls)]]
    for session in sessions:
        session.close()
    return _Trial(grants[0].pk, uses, answers, afterwards)


async def _answered(session: Session, tool: str) -> Answer:
    """Asked again while this agent has too many calls in progress: that is no word about the grant."""
    while True:
        answer = await session.call(tool)
        if answer.code != TOO_MANY:
            return answer
        await asyncio.sleep(0.005)


def _verify(report: Report, place: Place, trials: list[_Trial]) -> None:
    everything = [one for trial in trials for one in (*trial.answers, *trial.afterwards)]
    received, through = check_upstream(report, place, everything), sum(one.allowed for one in everything)
    report.check(len(received) == through, f"{through} calls got through, {len(received)} reached the upstream")
    for trial in trials:
        allowed = sum(one.allowed for one in trial.answers)
        entries = Entry.objects.filter(grant=trial.grant)
        unsent = entries.filter(event="call.not_sent").count()
        authorized = entries.filter(event="call.authorized").count() - unsent
        sentence = f"grant {trial.grant} for {trial.uses} calls: {allowed} got through, {authorized} are authorized"
        report.check(allowed == authorized == trial.uses, f"{sentence} ({codes(trial.answers)})")
        report.check(
            not any(one.allowed for one in trial.afterwards), f"grant {trial.grant}: a call got through afterwards"
        )
    rows = []
    for uses in sorted({trial.uses for trial in trials}):
        same = [one for trial in trials if trial.uses == uses for one in trial.answers]
        number = sum(trial.uses == uses for trial in trials)
        rows.append([uses, number, len(same), codes(same), *quantiles(one.seconds for one in same)])
    report.table(("uses", "grants", "calls", "answers", *QUANTILES), rows)
    report.figures |= {"trials": len(trials), "calls": len(everything)}
