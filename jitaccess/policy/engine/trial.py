"""A policy as it would be: somebody with one role more, a role with other rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from jitaccess.policy.engine.rights import START_OF_TIME, Who
from jitaccess.policy.engine.rules import BindingFacts, Origin, RoleFacts, ServerFacts, Snapshot, Subject, ToolFacts


def with_role(snapshot: Snapshot, role: RoleFacts, who: Who) -> Snapshot:
    """The snapshot in which this principal has the role too: the agent, and the user for whom it acts."""
    places = [Subject(agent=who.agent), *([Subject(user=who.user)] if who.user else [])]
    bindings, placed = dict(snapshot.bindings), dict(snapshot.places)
    for number, place in enumerate(places):
        binding = BindingFacts(UUID(int=number), Origin.STANDING, role, {}, START_OF_TIME, None, None)
        bindings[place] = (*bindings.get(place, ()), binding)
        placed[binding.id] = place
    return replace(snapshot, bindings=bindings, places=placed)


def with_rules(snapshot: Snapshot, role: RoleFacts) -> Snapshot:
    """The snapshot in which the role of this name says this, for everybody who has it."""

    def changed(binding: BindingFacts) -> BindingFacts:
        if binding.role is None or binding.role.name != role.name:
            return binding
        return replace(binding, role=replace(role, id=binding.role.id))

    return replace(snapshot, bindings={place: tuple(map(changed, held)) for place, held in snapshot.bindings.items()})


@dataclass(frozen=True, slots=True)
class Change:
    """What a role says of one tool, before and after."""

    server: str
    tool: str
    before: str
    after: str


def changes(snapshot: Snapshot, before: RoleFacts | None, after: RoleFacts | None) -> Iterator[Change]:
    """Every tool of which the two say something else."""
    for server in sorted(snapshot.servers.values(), key=lambda one: one.slug):
        for tool in sorted(server.tools.values(), key=lambda one: one.name):
            was, becomes = said(before, server, tool), said(after, server, tool)
            if was != becomes:
                yield Change(server.slug, tool.name, was, becomes)


def said(role: RoleFacts | None, server: ServerFacts, tool: ToolFacts) -> str:
    """What a role says of a tool: nothing, allowed or denied, and whether under conditions."""
    for word, rules in (("denied", role.deny if role else ()), ("allowed", role.allow if role else ())):
        found = [rule for rule in rules if rule.about(server) and rule.covers(tool)]
        if any(rule.plain for rule in found):
            return word
        if found:
            numbers = ", ".join(str(rule.number) for rule in found)
            return f"{word} under conditions (rule {numbers})"
    return "nothing"
