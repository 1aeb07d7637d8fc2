"""What must not come of a change of configuration: that nobody can do or decide anything any more. Refused in files as
in the admin: to stop everything there are locks, which can be lifted.
"""

from __future__ import annotations

from collections.abc import Iterator

from jitaccess.policy.approval.document import GroupSpec, Kind, PolicyDocument
from jitaccess.policy.approval.review import World


def allows_nothing(everybody: str) -> str:
    """Of a ceiling of `everybody`, such as "every agent"."""
    return f"the role allows nothing, so {everybody} could do nothing. Add rules."


def short_groups(document: PolicyDocument, world: World) -> Iterator[tuple[str, GroupSpec, int]]:
    """Groups of named people of whom there are too few, with their rule. Who owns what depends on the request."""
    for rule in document.rules:
        for group in rule.groups():
            if any(not selector.name for selector in group.people):
                continue
            found: set[str] = set()
            for selector in group.people:
                if selector.kind is Kind.USER:
                    found.update({selector.name} & set(world.users))
                elif selector.kind is Kind.TEAM:
                    found.update(world.teams.get(selector.name, ()))
                elif world.schedules.get(selector.name):
                    found.add(str(selector))
            if len(found) < group.quorum:
                yield rule.name, group, len(found)


def cannot_decide(policy: str, rule: str, group: GroupSpec, count: int) -> str:
    return (
        f"approval-policy {policy}, rule {rule}, group {group.name}: {group.quorum} must approve, but {count} "
        "active people would be in it, so it could never decide. Add people, or lower the quorum."
    )
