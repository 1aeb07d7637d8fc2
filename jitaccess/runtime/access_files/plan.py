"""What applying would do: the difference between what the files want and what is there, and what stands in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from jitaccess.catalog.credentials import origin_of
from jitaccess.catalog.options import DEFAULTS
from jitaccess.runtime.access_files import lockouts, references
from jitaccess.runtime.access_files.documents import Key, Problem, Reading, Wanted
from jitaccess.runtime.access_files.state import Now, State, in_order
from jitaccess.runtime.access_files.tools import resolve_tools

# What a thing is when a file that makes it does not say.
_NEW: dict[str, dict[str, Any]] = {
    "team": {"members": []},
    "agent": {"description": "", "users": [], "labels": {}, "enabled": True},
    "server": {
        "description": "", "instructions": "", "enabled": True, "owner_team": "", "labels": {}, "access": [],
        "options": DEFAULTS.as_json(), "tools": {}, "requestables": [],
    },
}  # fmt: skip
_OVER_HTTP = {"era": "auto", "shared": False}
_NEW_TOOL = {"access": "unclassified", "pin": "", "labels": {}}


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DISABLE = "disable"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is {} for what is new, `after` {} for what goes."""

    action: Action
    key: Key
    before: dict[str, Any]
    after: dict[str, Any]

    def fields(self) -> Iterator[tuple[str, Any, Any]]:
        """What differs: its path, the old value and the new one; None for what was not there, or goes."""
        yield from _differences("", self.before, self.after)


@dataclass(slots=True)
class Plan:
    """`problems` not empty: nothing may be applied. `kept` is what pruning leaves, each with its why."""

    changes: list[Change] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def make_plan(reading: Reading, there: Now, *, prune: bool) -> Plan:
    """Everything at once: every problem of every file, or every change. Writes nothing."""
    plan = Plan(problems=list(reading.problems))
    after: State = dict(there.state)
    for wanted in _timely(reading.wanted.values(), there.at, plan):
        before = there.state.get(wanted.key, {})
        value = resolve_tools(wanted, there, plan.problems, plan.warnings)
        merged = _merged(wanted.key.kind, before, value)
        after[wanted.key] = merged
        if merged != before:
            plan.changes.append(Change(Action.CHANGE if before else Action.CREATE, wanted.key, before, merged))
            plan.warnings += _side_effects(wanted, before, merged, there)
    # Of files that cannot all be read nobody knows what is missing in them.
    if prune and not reading.problems:
        _prune(reading, there, after, plan)
    found, known = references.problems(reading.wanted.values(), there, after)
    plan.problems += found
    plan.warnings += map(str, known)
    if not plan.problems:
        refusals, warnings = lockouts.look(there, after)
        plan.problems += [Problem("", 0, text) for text in refusals]
        plan.warnings += warnings
    plan.problems = sorted(set(plan.problems))
    return plan


def _timely(wanted: Iterable[Wanted], at: datetime, plan: Plan) -> Iterator[Wanted]:
    """Without bindings that would have ended already."""
    for one in wanted:
        until = one.value.get("until") if one.key.kind == "binding" else ""
        if until and datetime.fromisoformat(until) <= at:
            plan.warnings.append(str(one.problem(f"{one.key} ended at {until}; take it out.")))
        else:
            yield one


def _merged(kind: str, before: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What a file does not say stays; what it says is the whole of it; of tools and options, each alone."""
    new = _NEW.get(kind, {}) | (_OVER_HTTP if "url" in wanted else {})
    value = {**(before or new), **wanted}
    if "tools" in wanted and kind == "server":
        tools = before.get("tools", {})
        told = {name: {**tools.get(name, _NEW_TOOL), **tool} for name, tool in wanted["tools"].items()}
        value["tools"] = tools | told
    if "options" in wanted:
        value["options"] = {**before.get("options", DEFAULTS.as_json()), **wanted["options"]}
    if "requestables" in wanted:
        value["requestables"] = in_order(wanted["requestables"])
    return value


def _side_effects(wanted: Wanted, before: dict[str, Any], after: dict[str, Any], there: Now) -> Iterator[str]:
    """What follows from a change without standing in it."""
    old, new = before.get("url", ""), after.get("url", "")
    if old and new != old and origin_of(old) != origin_of(new):
        yield str(wanted.problem("spec.url: another address, so the credentials given for the old one are removed."))
    trusted = [one.get("options", {}).get("accept_definitions", False) for one in (before, after)]
    if trusted == [False, True]:
        yield str(wanted.problem("spec.options.accept_definitions: nobody reviews its tools before agents see them."))
    if wanted.key.kind == "agent" and not there.people.get(after["owner"], True):
        yield str(wanted.problem(f"spec.owner: {after['owner']} is not active, so the agent is refused."))


def _prune(reading: Reading, there: Now, after: State, plan: Plan) -> None:
    """Only kinds that the files have any of: whoever applies one team does not mean that every agent should go."""
    kinds = {key.kind for key in reading.wanted}
    for kind in ("binding", "agent", "server", "team", "role", "approval-policy"):
        if kind not in kinds:
            continue
        for key in sorted(set(there.state) - set(reading.wanted)):
            if key.kind == kind == "approval-policy":
                plan.kept.append(f"{key}: its versions are history")
            elif key.kind == kind:
                _prune_one(key, there, after, plan)


def _prune_one(key: Key, there: Now, after: State, plan: Plan) -> None:
    before = there.state[key]
    used = next((str(user) for user, value in after.items() if user != key and references.names(user, value, key)), "")
    why = there.elsewhere.get(key) or there.busy.get(key)
    held = there.history.get(key) or (f"{used} names it" if used else "")
    if why or (held and "enabled" not in before):
        plan.kept.append(f"{key}: {why or held}")
    elif held:
        plan.kept.append(f"{key}: {held}, so it is disabled")
        if before["enabled"]:
            after[key] = before | {"enabled": False}
            plan.changes.append(Change(Action.DISABLE, key, before, after[key]))
    else:
        del after[key]
        plan.changes.append(Change(Action.REMOVE, key, before, {}))


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict) and (before or after):
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                yield from _differences(f"{path}.{name}".lstrip("."), before.get(name), after.get(name))
    elif isinstance(after, dict) and after and before is None:
        for name, value in after.items():
            yield from _differences(f"{path}.{name}".lstrip("."), None, value)
    else:
        yield path, before, after
