"""What stands against privileges on a database, whatever is granted: deny rules and ceilings."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from jitaccess.policy.engine.rights import Who, bindings_of
from jitaccess.policy.engine.rules import Origin, RoleRule, Snapshot


def against_privileges(
    snapshot: Snapshot,
    *,
    who: Who,
    database: str,
    objects: Collection[str],
    privileges: Collection[str],
    at: datetime,
) -> str:
    """The rule that denies one of these, or the ceiling that does not reach to all of them; "" for neither.

    A deny rule with a condition denies, and an allow rule of a ceiling with one does not allow: there is no call that
    it could be evaluated for.
    """

    def names(rule: RoleRule, thing: str, privilege: str) -> bool:
        return rule.databases.matches(database) and rule.objects.matches(thing) and privilege in rule.privileges

    asked = [(thing, privilege) for thing in objects for privilege in privileges]
    for binding in bindings_of(snapshot, who):
        if binding.role is None or not binding.live(at):
            continue
        for rule in binding.role.deny:
            if any(names(rule, *one) for one in asked):
                return f"{binding.role}, deny rule {rule.number}"
        if binding.origin is Origin.CEILING:
            allow = [rule for rule in binding.role.allow if rule.where is None]
            if not all(any(names(rule, *one) for rule in allow) for one in asked):
                return f"{binding.role}, a ceiling"
    return ""
