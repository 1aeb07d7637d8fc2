"""Running the suite, reading what it found, comparing two runs check by check."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests import peers

MODERN, LEGACY = "2026-07-28", "2025-11-25"
REVISIONS = (MODERN, LEGACY)
# Of one scenario; the suite's own default.
TIMEOUT_MS = 30_000
# Of a whole run, in seconds: it takes six with nothing beside it.
LIMIT = 300
# What stands beside checks in a scenario's file and is none: what was sent and what came.
NOT_CHECKS = frozenset({"INFO"})
_PACKAGE = Path(peers.CONFORMANCE).parent.parent
_REQUIREMENTS = _PACKAGE / "requirements"
NAME_AND_VERSION = "{name} {version}".format_map(json.loads((_PACKAGE / "package.json").read_text()))

Key = tuple[str, str]


class Broken(Exception):
    """The suite itself did not run to its end."""


@dataclass(frozen=True)
class Check:
    """What came of one check: the statuses of all that have its id, and what was said of those that failed."""

    statuses: tuple[str, ...]
    said: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return set(self.statuses) <= {"SUCCESS", "SKIPPED"}

    def __str__(self) -> str:
        return "+".join(sorted(set(self.statuses))) or "absent"


ABSENT = Check(())


@dataclass(frozen=True)
class Run:
    """One run of one revision's requirements: checks by (scenario, id of the check)."""

    revision: str
    checks: dict[Key, Check]

    @property
    def scenarios(self) -> set[str]:
        return {scenario for scenario, _ in self.checks}

    def with_scenario(self, again: Run) -> Run:
        """What `again` saw of its scenarios in place of what was seen here."""
        others = {key: check for key, check in self.checks.items() if key[0] not in again.scenarios}
        return replace(self, checks=others | again.checks)

    def failed(self, scenarios: frozenset[str]) -> list[Key]:
        return [key for key, check in self.checks.items() if not check.passed and key[0] in scenarios]


@dataclass(frozen=True)
class Difference:
    scenario: str
    check: str
    direct: Check
    through: Check

    def __str__(self) -> str:
        said = "; ".join((self.through.said or self.direct.said)[:2])
        return f"{self.scenario:42} {self.check:58} {self.direct!s:8} -> {self.through!s:8} {said}"


async def run(url: str, revision: str, folder: Path, *, scenario: str = "") -> Run:
    """Everything that a revision requires of a server, and what is run beside it; or one scenario. Raises Broken."""
    what = ["--scenario", scenario, "--spec-version", revision, "--force"] if scenario else ["--requirements", revision]
    arguments = ["server", "--url", url, *what, "-o", str(folder), "--timeout", str(TIMEOUT_MS)]
    process = await asyncio.create_subprocess_exec(
        peers.NODE, peers.CONFORMANCE, *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = read(revision, folder)
    if missing := (frozenset({scenario}) if scenario else listed(revision, "server")) - found.scenarios:
        raise Broken(f"No checks of {sorted(missing)}:\n{output.decode(errors='replace')[-4000:]}")
    return found


def read(revision: str, folder: Path) -> Run:
    """What a run wrote: a folder per scenario, named server-<scenario>-<instant>."""
    statuses: dict[Key, list[str]] = defaultdict(list)
    said: dict[Key, list[str]] = defaultdict(list)
    for file in sorted(folder.glob("server-*/checks.json")):
        scenario = file.parent.name.removeprefix("server-")[: -len("-2026-01-01T00-00-00-000Z")]
        for check in json.loads(file.read_text()):
            if check["status"] in NOT_CHECKS:
                continue
            key = scenario, check["id"]
            statuses[key].append(check["status"])
            if check["status"] not in {"SUCCESS", "SKIPPED"}:
                said[key].append(" ".join(str(check.get("errorMessage", "")).split())[:300])
    return Run(revision, {key: Check(tuple(all_), tuple(said[key])) for key, all_ in statuses.items()})


def listed(revision: str, part: str) -> frozenset[str]:
    """The scenarios about servers in one part of a revision's requirements: `server` counts, `not_scored` does not."""
    found = yaml.safe_load((_REQUIREMENTS / f"{revision}.yaml").read_text())
    entries = found[part] if part == "server" else [one["scenario"] for one in found[part] if one["leg"] == "server"]
    return frozenset(entries)


def compare(direct: Run, through: Run) -> list[Difference]:
    """Checks that came out otherwise, or only in one of them. How often one was made counts, its order does not."""
    found = []
    for key in sorted(direct.checks.keys() | through.checks.keys()):
        one, other = direct.checks.get(key, ABSENT), through.checks.get(key, ABSENT)
        if sorted(one.statuses) != sorted(other.statuses):
            found.append(Difference(*key, one, other))
    return found
