"""All runs of the suite: the fixture directly, and through a gateway over both transports, in both revisions."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.behind import (
    AGENT,
    ITS_SCENARIO,
    LIMITED,
    ON_STDIO,
    OVER_HTTP,
    Behind,
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


@dataclass(frozen=True)
class Outcome:
    """What came of all runs."""

    direct: dict[str, Run]
    through: dict[Way, Run]
    seconds: float

    def differences(self, way: Way) -> list[Difference]:
        return compare(self.direct[way.revision], self.through[way])

    def unwanted(self, way: Way) -> list[Difference]:
        """Differences that should not be there: all, but for those of the scenario whose tool was denied."""
        found = self.differences(way)
        return [one for one in found if way.agent != LIMITED or one.scenario != ITS_SCENARIO]

    def denial_shows(self, way: Way) -> bool:
        return any(one.scenario == ITS_SCENARIO for one in self.differences(way)) is (way.agent == LIMITED)

    def failed_directly(self) -> list[str]:
        """Checks that count and that the fixture itself does not pass: a comparison with it would prove less."""
        return [
            f"{revision} {' '.join(key)}"
            for revision, one in self.direct.items()
            for key in one.failed(listed(revision, "server"))
        ]

    @property
    def good(self) -> bool:
        return not self.failed_directly() and all(not self.unwanted(way) and self.denial_shows(way) for way in WAYS)


async def compare_all(installation: Installation, folder: Path, ways: tuple[Way, ...] = WAYS) -> Outcome:
    """All runs at once: most of their time they wait."""
    started = time.monotonic()
    ports = [free_port() for _ in ways]
    with (
        fixture_server() as alone,
        fixture_server() as behind_it,
        gateway(installation, behind_it, ports) as behind,
    ):
        direct = [run(alone, revision, folder / f"direct-{revision}") for revision in REVISIONS]
        through = [_through(behind, way, port, folder) for way, port in zip(ways, ports, strict=True)]
        found = await asyncio.gather(*direct, *through)
    return Outcome(
        dict(zip(REVISIONS, found[: len(REVISIONS)], strict=True)),
        dict(zip(ways, found[len(REVISIONS) :], strict=True)),
        time.monotonic() - started,
    )


async def _through(behind: Behind, way: Way, port: int, folder: Path) -> Run:
    async with shim(behind.host, behind.port, behind.tokens[way.agent], at=port):
        url = f"http://127.0.0.1:{port}/mcp/{way.server}"
        return await run(url, way.revision, folder / way.name.replace(" ", "-"))
