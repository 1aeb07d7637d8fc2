"""Why a decision is what it is: every binding and rule that was considered, what was missing, what to ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.strictjson import JsonView
from jitaccess.policy.engine.decide import Code, Here, Verdict, decide, look
from jitaccess.policy.engine.matching import covers, gives
from jitaccess.policy.engine.rights import Who, allowing, denying
from jitaccess.policy.engine.rules import BindingFacts, Snapshot, Subject, ToolFacts


class Part(StrEnum):
    """What a binding was considered for."""

    DENY = "deny"
    CEILING = "ceiling"
    AGENT = "agent's rights"
    USER = "user's rights"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Considered:
    """One binding, or one deny rule of it. `applies`: it allows (or denies) the call; else `missing` says why not."""

    part: Part
    binding: UUID
    whose: str
    rule: str
    applies: bool
    decided: bool
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict as `decide` gives it, all that was considered, in order, and what to do about a refusal."""

    verdict: Verdict
    considered: tuple[Considered, ...]
    advice: tuple[str, ...]


def explain(
    snapshot: Snapshot,
    *,
    who: Who,
    server: UUID | None,
    tool: str,
    at: datetime,
    arguments: JsonView = None,
    digest: str = "",
) -> Explanation:
    """What `decide` says of the same question, and why."""
    verdict = decide(snapshot, who=who, server=server, tool=tool, at=at, arguments=arguments, digest=digest)
    here = look(snapshot, who=who, server=server, at=at, arguments=arguments, digest=digest)
    if isinstance(here, Verdict) or verdict.tool is None:
        return Explanation(verdict, (), _advice(verdict))
    return Explanation(verdict, tuple(_considered(here, verdict.tool, verdict)), _advice(verdict))


def _considered(here: Here, tool: ToolFacts, verdict: Verdict) -> Iterator[Considered]:
    has = here.has.rights
    yield from _denials(here, tool, verdict)
    for part, bindings in (
        (Part.CEILING, has.ceilings),
        (Part.AGENT, has.agents_own),
        (Part.USER, has.users_own),
        (Part.GRANT, tuple(one for one in has.past if one.granted)),
    ):
        for binding in bindings:
            yield _binding(here, tool, verdict, part, binding)


def _denials(here: Here, tool: ToolFacts, verdict: Verdict) -> Iterator[Considered]:
    for binding in here.has.rights.denying:
        for role, rules in denying(binding, here.asked.server):
            for rule in rules:
                if covers(rule, tool, denies=True):
                    missing = here.asked.lacks(rule, tool, denies=True)
                    named = f"{role}, deny rule {rule.number}"
                    whose = whose_is(here.asked.snapshot, binding)
                    yield Considered(Part.DENY, binding.id, whose, named, not missing, verdict.rule == named, missing)


def _binding(here: Here, tool: ToolFacts, verdict: Verdict, part: Part, binding: BindingFacts) -> Considered:
    asked, why = here.asked, list[str]()
    rule = gives(asked, allowing(binding, asked.server), tool, why=why)
    name = str(binding.role) if binding.role else f"grant {binding.grant}"
    missing = _not_in_force(here, binding) or ("" if rule else "; ".join(why) or f"it is not about {tool.name} here")
    decided = binding.id in verdict.bindings or (part is Part.CEILING and not rule and name in verdict.rule)
    whose = whose_is(asked.snapshot, binding)
    return Considered(part, binding.id, whose, rule or name, bool(rule) and not missing, decided, missing)


def _not_in_force(here: Here, binding: BindingFacts) -> str:
    at = here.asked.at
    if lock := here.has.rights.stopped.get(binding.id):
        return str(lock)
    if binding.ended_at is not None:
        return f"it was ended at {binding.ended_at:%Y-%m-%d %H:%M:%S} UTC"
    if at < binding.starts_at:
        return f"it starts at {binding.starts_at:%Y-%m-%d %H:%M:%S} UTC"
    if not binding.live(at):
        return f"it expired at {binding.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    return "its uses are used up" if binding.id in here.asked.snapshot.spent else ""


def whose_is(snapshot: Snapshot, binding: BindingFacts) -> str:
    """To whom a binding belongs, for people."""
    place = snapshot.places.get(binding.id, Subject())
    agent, user = (snapshot.agents.get(place.agent) if place.agent else None), None
    user = snapshot.users.get(place.user) if place.user else None
    if place.everyone:
        return f"every {place.everyone.removesuffix('s')}"
    if place.team:
        return f"team {snapshot.teams.get(place.team, place.team)}"
    return " for ".join(one.name for one in (agent, user) if one)


def _advice(verdict: Verdict) -> tuple[str, ...]:
    """What would help, the smallest first."""
    found = []
    if verdict.requestable is not None and verdict.tool is not None:
        longest = format_duration(verdict.requestable.max_seconds)
        what = {"exact": "this one call of ", "schema": "calls with certain arguments of "}
        asked_for = what.get(verdict.requestable.arguments, "")
        found.append(f"ask for {asked_for}{verdict.tool.name}, for at most {longest}")
    found += [f"ask for the role {name}" for name in verdict.roles]
    match verdict.code:
        case Code.QUARANTINED:
            found.append("an admin has to review the tool's definition")
        case Code.LOCKED_DOWN:
            found.append("whoever locked or disabled it has to end that; asking for access does not help")
        case Code.NOT_REQUESTABLE:
            found.append("a deny rule forbids it: only a change of that role would help")
        case Code.UNKNOWN:
            found.append("nothing that may be asked for would allow it; an admin can add a requestable or a role")
    return tuple(found)
