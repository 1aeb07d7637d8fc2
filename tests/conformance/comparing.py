"""All runs of the suite: the fixture directly, and through a gateway over both transports, in both revisions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.behind import (
    AGENT,
    ITS_SCENARIO,
    LIMITED,
    ON_STDIO,
    ONLY_NEWER,
    ONLY_OLDER,
    OVER_HTTP,
    fixture_server,
    gateway,
)
from tests.conformance.shim import shim
from tests.conformance.suite import LEGACY, MODERN, REVISIONS, Difference, Run, compare, listed, run
from tests.installation import Installation, free_port


@dataclass(frozen=True)
class Way:
    """One run through the gateway."""

    revision: str
    server: str
    agent: str = AGENT

    @property
    def name(self) -> str:
        return f"{self.revision} {self.server}" + (" one tool denied" if self.agent == LIMITED else "")


WAYS = (
    Way(MODERN, OVER_HTTP),
    Way(LEGACY, OVER_HTTP),
    Way(MODERN, ON_STDIO),
    Way(LEGACY, ON_STDIO),
    Way(MODERN, OVER_HTTP, LIMITED),
)


# A client of one revision and a server of the other. What a client of the newer one is asked for a server of the older
# one, it is asked by names that the gateway gives, for that server gives none: that differs, and can be no other. And
# the suite leaves calls without their answers, which wait: only so many of one principal may.
BRIDGED = (Way(LEGACY, ONLY_NEWER), Way(MODERN, ONLY_OLDER))
ASKED_OTHERWISE = frozenset(
    f"input-required-result-{name}" for name in ("basic-elicitation", "ignore-extra-params", "multiple-input-requests")
)
# Of runs at once, and how often what differs is looked at again. Some checks wait half a second for an answer, which on
# a machine that does other things besides is not always enough, for the server directly as little as through a gateway.
AT_ONCE = 4
AGAIN = 2


@dataclass(frozen=True)
class Place:
    """Where a run of one revision goes to, and where what it saw is kept."""

    url: str
    revision: str
    folder: Path

    async def run(self, turns: asyncio.Semaphore) -> Run:
        async with turns:
            return await run(self.url, self.revision, self.folder)

    async def again(self, scenario: str, number: int) -> Run:
        return await run(self.url, self.revision, self.folder / f"again-{number}-{scenario}", scenario=scenario)


@dataclass
class Outcome:
    """What came of all runs. `again` names the scenarios that came out right only when nothing ran beside them."""

    direct: dict[str, Run]
    through: dict[Way, Run]
    again: list[str]
    seconds: float = 0.0

    def differences(self, way: Way) -> list[Difference]:
        return compare(self.direct[way.revision], self.through[way])

    def unwanted(self, way: Way) -> list[Difference]:
        """Differences that should not be there: all, but for the scenario whose tool was denied, and what is bridged."""
        but = {ITS_SCENARIO} if way.agent == LIMITED else ASKED_OTHERWISE if way.server == ONLY_OLDER else ()
        return [one for one in self.differences(way) if one.scenario not in but]

    def denial_shows(self, way: Way) -> bool:
        return any(one.scenario == ITS_SCENARIO for one in self.differences(way)) is (way.agent == LIMITED)

    def failed_directly(self, revision: str) -> list[tuple[str, str]]:
        """Checks that count and that the fixture itself does not pass: a comparison with it would prove less."""
        return self.direct[revision].failed(listed(revision, "server"))

    @property
    def good(self) -> bool:
        direct = not any(self.failed_directly(revision) for revision in self.direct)
        return direct and all(not self.unwanted(way) and self.denial_shows(way) for way in self.through)


async def compare_all(installation: Installation, folder: Path, ways: tuple[Way, ...] = WAYS) -> Outcome:
    """All runs, several at once, because most of their time they wait; then what differs again, one by one."""
    started, turns = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    async with contextlib.AsyncExitStack() as stack:
        alone, behind_it = (stack.enter_context(fixture_server()) for _ in range(2))
        ports = {way: free_port() for way in ways}
        names = {way.server for way in ways}
        behind = stack.enter_context(gateway(installation, behind_it, names, list(ports.values())))
        for way, port in ports.items():
            await stack.enter_async_context(shim(behind.host, behind.port, behind.tokens[way.agent], at=port))
        places = {
            way: Place(f"http://127.0.0.1:{port}/mcp/{way.server}", way.revision, folder / way.name.replace(" ", "-"))
            for way, port in ports.items()
        }
        straight = {revision: Place(alone, revision, folder / f"direct-{revision}") for revision in REVISIONS}
        found = await asyncio.gather(*(place.run(turns) for place in (*straight.values(), *places.values())))
        direct, through = found[: len(straight)], found[len(straight) :]
        outcome = Outcome(dict(zip(straight, direct, strict=True)), dict(zip(places, through, strict=True)), [])
        for number in range(AGAIN):
            await _look_again(outcome, straight, places, number)
    outcome.seconds = time.monotonic() - started
    return outcome


async def _look_again(outcome: Outcome, straight: dict[str, Place], places: dict[Way, Place], number: int) -> None:
    for revision, place in straight.items():
        for scenario in sorted({scenario for scenario, _ in outcome.failed_directly(revision)}):
            outcome.again.append(f"{revision} {scenario}")
            outcome.direct[revision] = outcome.direct[revision].with_scenario(await place.again(scenario, number))
    for way, place in places.items():
        for scenario in sorted({one.scenario for one in outcome.unwanted(way)}):
            outcome.again.append(f"{way.name} {scenario}")
            outcome.through[way] = outcome.through[way].with_scenario(await place.again(scenario, number))
