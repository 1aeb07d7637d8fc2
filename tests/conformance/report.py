"""The report, for the terminal and as a page."""

from __future__ import annotations

from importlib.metadata import version

from tests.conformance.behind import DENIED_TOOL, LIMITED, ON_STDIO, ONLY_NEWER, ONLY_OLDER, OVER_HTTP
from tests.conformance.comparing import Outcome, Way
from tests.conformance.suite import NAME_AND_VERSION, REVISIONS, listed


def as_text(outcome: Outcome) -> str:
    lines = [f"{NAME_AND_VERSION}, {outcome.seconds:.0f} s"]
    for revision, one in outcome.direct.items():
        passed = sum(check.passed for check in one.checks.values())
        lines.append(f"{revision} directly: {len(one.checks)} checks, {passed} passed")
        lines += [f"  not passed, and it counts: {' '.join(key)}" for key in outcome.failed_directly(revision)]
    for way in outcome.through:
        lines.append(f"{way.name}: {_verdict(outcome, way)}")
        lines += [f"  {one}" for one in outcome.differences(way)]
    lines += [f"run again with nothing beside it: {one}" for one in outcome.again]
    return "\n".join(lines)


def _verdict(outcome: Outcome, way: Way) -> str:
    differing, checks = len(outcome.differences(way)), len(outcome.direct[way.revision].checks)
    if way.agent == LIMITED:
        shown = "all" if not outcome.unwanted(way) and outcome.denial_shows(way) else "NOT ALL"
        return f"{differing} of {checks} checks differ, {shown} of them about {DENIED_TOOL}"
    return f"{differing} of {checks} checks differ"


def as_markdown(outcome: Outcome) -> str:
    rows = []
    for way in outcome.through:
        direct, through = outcome.direct[way.revision], outcome.through[way]
        passed = [sum(check.passed for check in one.checks.values()) for one in (direct, through)]
        rows.append(
            f"| {way.revision} | {SERVERS[way.server]} | {f'all but `{DENIED_TOOL}`' if way.agent == LIMITED else 'all'} "
            f"| {len(direct.checks)} | {passed[0]} | {passed[1]} | {len(outcome.differences(way))} |"
        )
    failing = sorted({key[0] for one in outcome.direct.values() for key in one.checks if not one.checks[key].passed})
    counting = {scenario for revision in REVISIONS for scenario in listed(revision, "server")}
    return PAGE.format(
        suite=NAME_AND_VERSION,
        sdk=f"mcp {version('mcp')}",
        rows="\n".join(rows),
        failing=", ".join(f"`{one}`" for one in failing),
        counting="none of them counts" if not set(failing) & counting else "some of them count",
    )


SERVERS = {
    OVER_HTTP: "both, over HTTP",
    ON_STDIO: "both, over stdio",
    ONLY_OLDER: "2025-11-25 only, over HTTP",
    ONLY_NEWER: "2026-07-28 only, over HTTP",
}
PAGE = """\
# Conformance

`make conformance` runs the official suite of the protocol against one server directly, and against the same server
through a gateway, and compares what came of every check. Exit code 0: nothing differs. This page is written by
`make conformance PAGE=docs/conformance.md`.

- **Suite**: {suite}, what each revision requires of servers and what it runs beside that.
- **Server**: `tests/conformance/server.py`, made with the official Python SDK ({sdk}): everything the suite looks for.
- **Gateway**: a new installation, started with `jitaccess up`; `/mcp/<server>`; policy on, one role that allows all tools,
  resources and prompts; all tools pinned. The suite can send no header of its own, so a proxy on the loopback
  (`tests/conformance/shim.py`) adds the token and changes nothing else.

| client's revision | server's | role allows | checks | pass directly | pass through the gateway | differ |
|---|---|---|---|---|---|---|
{rows}

A check differs when its status does, or when only one of the runs has it. Every row compares with the direct run over
HTTP in the client's revision: what is about HTTP itself is the gateway's own. Where one tool is denied, exactly the checks
about that tool may differ, and must.

In the rows with a server of the other revision only, the gateway translates. A client of 2026-07-28 is asked for a server
of 2025-11-25 by names that the gateway gives, because that server gives none; the suite looks for a name of its own in
three checks. It also begins calls that it never carries on; they wait, at most eight of one principal, so that the two
checks about several questions at once may find no room. All else comes out the same, with calls parked and carried on.

Some checks wait half a second for an answer. A scenario that comes out otherwise is run again with nothing beside it, and
that counts; it is named in the report. Comparing all of it takes about a minute on two cores.

Not everything passes directly ({counting}): {failing}. That is extensions this server does not have, and what the
suite's own example does not pass yet. Through the gateway they come out the same.
"""
