"""What a principal sees of the resources and prompts of a server, by the decision that a read would get.

Which there are is not policy: the server says so when it is asked. Here is what may be shown of what it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from jitaccess.policy.engine.decide import Here, Verdict, Who, first_denial, look, weigh
from jitaccess.policy.engine.matching import Kind, Offered
from jitaccess.policy.engine.rights import Ruled
from jitaccess.policy.engine.rules import RoleRule, Snapshot


def readable(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime, kind: Kind, names: Iterable[str]) -> set[str]:
    """Those of these resources (by URI) or prompts (by name) that this principal may read with some arguments."""
    here = look(snapshot, who=who, server=server, at=at)
    if isinstance(here, Verdict):
        return set()
    return {name for name in names if weigh(here, Offered(kind, name)).allowed}


def useful_templates(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime, templates: Iterable[str]) -> set[str]:
    """Those templates (RFC 6570) of which some URI may be readable: a pattern of each right that is needed could match.

    By what both begin with: one too many is listed, whose every URI is refused, and never one too few. A template that
    a deny rule matches as it is written is not listed.
    """
    here = look(snapshot, who=who, server=server, at=at)
    if isinstance(here, Verdict):
        return set()
    return {one for one in templates if _useful(here, one)}


def _useful(here: Here, template: str) -> bool:
    thing = Offered(Kind.RESOURCE, template)
    if here.has.denying and first_denial(here, thing):
        return False
    begins = template.partition("{")[0]

    def might(bindings: Iterable[Ruled]) -> bool:
        return any(_overlaps(rule, begins) for one in bindings for rule in one.rules)

    own = might(here.has.agents_own) and (here.asked.user is None or might(here.has.users_own))
    return (own or might(here.has.grants)) and all(might([one]) for one in here.has.ceilings)


def _overlaps(rule: RoleRule, begins: str) -> bool:
    return any(_could_match(source, begins) for source in rule.resources.sources)


def _could_match(pattern: str, begins: str) -> bool:
    """Whether the pattern may match something that begins so. Of a regular expression nothing is known."""
    if pattern.startswith("^"):
        return True
    fixed, star, _ = pattern.partition("*")
    return fixed.startswith(begins) or (bool(star) and begins.startswith(fixed))


def signature(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime, kind: Kind) -> int:
    """Changes when what is readable of this kind may have changed by policy. Conditions are asked as of no name."""
    here = look(snapshot, who=who, server=server, at=at)
    if isinstance(here, Verdict):
        return hash(here.code)
    nameless = Offered(kind, "")

    def holds(rule: RoleRule, *, denies: bool = False) -> bool:
        concerns = (denies and rule.every) or (rule.resources if kind is Kind.RESOURCE else rule.prompts).sources
        return bool(concerns) and (rule.plain or not here.asked.lacks(rule, nameless, denies=denies))

    has = here.has
    kinds = (("agent", has.agents_own), ("user", has.users_own), ("grant", has.grants), ("ceiling", has.ceilings))
    gives = tuple(
        (kind_of, one.binding.id, str(one.binding.role), tuple(rule.number for rule in one.rules if holds(rule)))
        for kind_of, held in kinds
        for one in held
    )
    takes = tuple(
        (str(role), tuple(rule.number for rule in rules if holds(rule, denies=True))) for role, rules in has.denying
    )
    # A binding that says nothing of this kind is no change of it; a ceiling that says nothing allows nothing.
    return hash((tuple(one for one in gives if one[3] or one[0] == "ceiling"), tuple(one for one in takes if one[1])))
