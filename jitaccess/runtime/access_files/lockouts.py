"""What must not come of applying files: that nobody can do, decide or undo anything any more.

Files never touch people, so whoever could sign in and put things right still can.
"""

from __future__ import annotations

from collections.abc import Iterator

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.document import GroupSpec, parse_policy
from jitaccess.policy.approval.review import World, warnings
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.lockouts import allows_nothing, cannot_decide, short_groups
from jitaccess.runtime.access_files.documents import Key, role_mentions
from jitaccess.runtime.access_files.kinds import EVERY
from jitaccess.runtime.access_files.state import Now, State


def look(there: Now, after: State) -> tuple[list[str], list[str]]:
    """Refusals, each with what to change, and warnings. What was so before is not refused: no file did it now."""
    old = dict(_dead_ends(there, there.state))
    refused: list[str] = []
    warned: list[str] = []
    for what, text in _dead_ends(there, after):
        (warned if what in old else refused).append(text)
    refused += _stops(there.state, after)
    world = _world(there, after)
    for key, value in after.items():
        if key.kind == "approval-policy" and value != there.state.get(key):
            try:
                warned += [f"{key}: {text}" for text in warnings(parse_policy(value["document"]), world)]
            except Invalid as error:
                refused.append(f"{key}: {error.detail}")
    return refused, list(dict.fromkeys(warned))


def _dead_ends(there: Now, state: State) -> Iterator[tuple[str, str]]:
    """What is wrong with a state as such: by what, and what to change."""
    people = _world(there, state)
    for name in sorted(_policies_in_use(there, state)):
        document = state.get(Key("approval-policy", name), {}).get("document", "")
        for rule, group, count in _short_groups(document, people):
            yield (
                f"{name} {rule} {group.name}",
                cannot_decide(name, rule, group, count),
            )
    for word in EVERY:
        for key in state:
            if key.kind == "binding" and key.name.endswith(f" ceiling {word}"):
                role = key.name.partition(" ")[0]
                if _allows_nothing(state.get(Key("role", role), {}).get("document", "")):
                    yield (
                        str(key),
                        f"{key}: {allows_nothing(word.replace('-', ' '))}",
                    )


def _stops(before: State, after: State) -> Iterator[str]:
    """What goes from some to none: an emergency stop is a lock, on purpose, not the by-product of files."""
    agents, left = _enabled(before, "agent"), _enabled(after, "agent")
    # Those that go altogether count as well.
    if len(agents) > 1 and not left:
        yield f"This would disable every agent at once ({len(agents)}). Leave one, or use a lock: that can be lifted."
    servers, open_ones = _open(before), _open(after)
    if len(servers) > 1 and not open_ones:
        yield "This would close every server to everybody. Leave one open, or use a lock: that can be lifted."
    if _roles_of_agents(before) and not _roles_of_agents(after):
        yield "No agent would have any role left, by default or otherwise. Keep one binding of agents."


def _enabled(state: State, kind: str) -> set[str]:
    return {key.name for key, value in state.items() if key.kind == kind and value["enabled"]}


def _open(state: State) -> set[str]:
    return {name for name in _enabled(state, "server") if state[Key("server", name)]["access"]}


def _roles_of_agents(state: State) -> set[str]:
    words = [key.name.split(" ", 2) for key in state if key.kind == "binding"]
    return {to for _, origin, to in words if origin != "ceiling" and (to == "every-agent" or to.startswith("agent:"))}


def _policies_in_use(there: Now, state: State) -> set[str]:
    used = {key.name for key in there.elsewhere if key.kind == "approval-policy"}
    for key, value in state.items():
        if key.kind == "server":
            used.update(one["approval"] for one in value["requestables"])
        elif key.kind == "role":
            try:
                mentions = role_mentions(parse_role(value["document"]))
            except Invalid:
                continue
            used.update(mention.name for mention in mentions if mention.kind == "approval-policy")
    return used


def _short_groups(document: str, people: World) -> Iterator[tuple[str, GroupSpec, int]]:
    try:
        policy = parse_policy(document)
    except Invalid:
        return
    yield from short_groups(policy, people)


def _allows_nothing(document: str) -> bool:
    try:
        return not parse_role(document).facts.allow
    except Invalid:
        return True


def _world(there: Now, state: State) -> World:
    active = {name for name, is_active in there.people.items() if is_active}
    teams = {key.name: active.intersection(value["members"]) for key, value in state.items() if key.kind == "team"}
    return World(
        users=active,
        inactive=set(there.people) - active,
        teams=teams,
        schedules={
            name: {name} if people is None else active.intersection(people) for name, people in there.schedules.items()
        },
    )
