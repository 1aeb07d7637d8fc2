"""Whether a rule applies to a question, and if not, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonView
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.arguments import ArgumentConstraint, Mode
from jitaccess.policy.engine.conditions import Condition, ConditionError
from jitaccess.policy.engine.rights import Ruled
from jitaccess.policy.engine.rules import AgentFacts, RoleRule, ServerFacts, Snapshot, ToolFacts, UserFacts

# Said of a rule that would deny some arguments, where nobody gave any.
DEPENDS = "it depends on the arguments"
_NO_LABELS: Mapping[str, str] = {}


class Kind(StrEnum):
    TOOL = "tool"
    RESOURCE = "resource"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Offered:
    """What a server offers besides tools: a resource by its URI, a prompt by its name."""

    kind: Kind
    name: str


Thing = ToolFacts | Offered


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks about a server, when and with which arguments. `arguments` None: is there any that would do?

    Then what depends on arguments counts as satisfied where it allows, and as not satisfied where it denies.
    `answers`: beside its arguments the call carries what its client answered to the server's questions.
    """

    snapshot: Snapshot
    agent: AgentFacts
    user: UserFacts | None
    server: ServerFacts
    at: datetime
    arguments: JsonView | None = None
    digest: str = ""
    answers: bool = False
    _context: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    # Filled when an answer depended on the arguments, or on the answers beside them.
    turned_on: list[str] = field(default_factory=list, compare=False, repr=False)

    def lacks(self, rule: RoleRule, thing: Thing, *, denies: bool) -> str:
        """What is missing for a rule that covers the thing to apply to it; "" when it applies.

        What cannot be evaluated does not allow, and does deny.
        """
        if rule.labels is not None and not self._labelled(rule, thing, denies=denies):
            return "the data labels are others"
        if rule.where is not None and (missing := self._condition(rule.where, thing, denies=denies)):
            return missing
        return self.differs(rule.arguments, denies=denies) if rule.arguments is not None else ""

    def differs(self, constraint: ArgumentConstraint, *, denies: bool = False) -> str:
        """How the arguments are not what the constraint asks for; "" when they are."""
        if constraint.mode is Mode.ANY:
            return ""
        if self.arguments is None:
            return DEPENDS if denies else ""
        self.turned_on.append("arguments")
        if self.answers and constraint.mode is Mode.EXACT and not denies and not constraint.answers:
            return "answers to the server were not approved with the arguments"
        try:
            return constraint.difference(self.arguments, self.digest) or ""
        except (Invalid, RecursionError):
            return "" if denies else "the arguments cannot be compared"

    def _labelled(self, rule: RoleRule, thing: Thing, *, denies: bool) -> bool:
        """A tool's own label counts instead of the server's of that name; one that denies may be on either."""
        assert rule.labels is not None
        theirs, own = self.server.labels, thing.labels if isinstance(thing, ToolFacts) else _NO_LABELS
        if rule.labels.match({**theirs, **own}):
            return True
        return denies and (rule.labels.match(theirs) or rule.labels.match({**own, **theirs}))

    def _condition(self, where: Condition, thing: Thing, *, denies: bool) -> str:
        if self.arguments is None and "args" in where.variables:
            return DEPENDS if denies else ""
        if "args" in where.variables:
            self.turned_on.append("arguments")
        shown = visible(where.source.strip(), limit=200)
        try:
            return "" if where.holds(self.context(thing)) else f"the condition {shown} is false"
        except ConditionError as error:
            return "" if denies else f"the condition {shown} has no answer: {error}"

    def context(self, thing: Thing) -> dict[str, object]:
        """The values of the variables (rules.VARIABLES) for conditions."""
        if not self._context:
            self._context.update(self._common())
        tool = thing if isinstance(thing, ToolFacts) else None
        return self._context | {
            "tool": {
                "name": tool.name if tool else "",
                "access": tool.access if tool else "",
                "labels": dict(tool.labels) if tool else {},
            },
            "resource": thing.name if isinstance(thing, Offered) and thing.kind is Kind.RESOURCE else "",
            "prompt": thing.name if isinstance(thing, Offered) and thing.kind is Kind.PROMPT else "",
        }

    def _common(self) -> dict[str, object]:
        agent, user, users, teams = self.agent, self.user, self.snapshot.users, self.snapshot.teams
        owner = users.get(agent.owner)
        return {
            "principal": {
                "agent": agent.name,
                "agent_labels": dict(agent.labels),
                "agent_team": teams.get(agent.team, ""),
                "owner": owner.name if owner else "",
                "user": user.name if user else "",
                "user_teams": sorted(teams[team] for team in user.teams if team in teams) if user else [],
            },
            "server": {"name": self.server.slug, "labels": dict(self.server.labels)},
            "args": self.arguments,
            "time": self.at,
        }


def covers(rule: RoleRule, thing: Thing, *, denies: bool) -> bool:
    """Whether a rule about the server is about the thing, what it asks for besides aside.

    A rule that names only servers and labels allows tools, and denies everything.
    """
    if isinstance(thing, ToolFacts):
        return rule.covers(thing)
    if rule.every:
        return denies
    return (rule.resources if thing.kind is Kind.RESOURCE else rule.prompts).matches(thing.name)


def gives(asked: Question, ruled: Ruled, thing: Thing, *, why: list[str] | None = None, pin: bool = True) -> str:
    """By what this binding allows the thing, for people; "" when it does not, and `why` then gets what is missing.

    `pin` False: or would have, had the tool not changed since.
    """
    binding = ruled.binding
    named = f"grant {binding.grant}" if binding.granted else ""
    found = ""
    if binding.tools and isinstance(thing, ToolFacts) and (granted := binding.tools.get(thing.id)) is not None:
        if not pin or granted.pin == thing.pin:
            found = named
        elif why is not None:
            why.append(f"{named}: the tool's definition is not the one that was approved")
    elif ruled.rules:
        found = _by_rule(asked, ruled, thing, why)
        if found and named:
            found = f"{named}, {found}"
    if found and binding.arguments is not None and (missing := asked.differs(binding.arguments)):
        if why is not None:
            why.append(f"{found}: {missing}")
        return ""
    return found


def _by_rule(asked: Question, ruled: Ruled, thing: Thing, why: list[str] | None) -> str:
    for rule in ruled.rules:
        if not covers(rule, thing, denies=False):
            continue
        missing = "" if rule.plain else asked.lacks(rule, thing, denies=False)
        if not missing and ruled.pinned is not None:
            missing = _not_approved(asked, ruled.pinned, thing)
        if not missing:
            return f"{ruled.binding.role}, allow rule {rule.number}"
        if why is not None:
            why.append(f"{ruled.binding.role}, allow rule {rule.number}: {missing}")
    return ""


def _not_approved(asked: Question, pinned: tuple[RoleRule, ...], thing: Thing) -> str:
    for rule in pinned:
        if covers(rule, thing, denies=False) and not asked.lacks(rule, thing, denies=False):
            return ""
    return "it was not in the version that was approved"
