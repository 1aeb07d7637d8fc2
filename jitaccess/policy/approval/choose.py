"""Which rule of a policy decides about a request, from plain facts about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.approval.document import PolicyDocument, PolicyRule
from jitaccess.policy.engine.conditions import ConditionError

# So that any number of calls is not few.
ANY_NUMBER = 1_000_000
# From the least to the most. What nobody classified may do anything, and so may roles and database privileges.
RISKS = ("low", "medium", "high", "critical")
_BY_ACCESS = {"read": "low", "write": "medium"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFacts:
    """One tool on one server, one role, or privileges on one database. Members that do not apply are empty."""

    kind: str
    server: str = ""
    tool: str = ""
    access: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    database: str = ""
    objects: tuple[str, ...] = ()
    privileges: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFacts:
    """How this agent's requests for the same tools went in the last 30 days, and how many calls it made with them."""

    asked: int = 0
    approved: int = 0
    denied: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What a policy may look at, by names. `user` is "" when the agent asks for itself; `max_uses` 0: any number."""

    agent: str
    agent_labels: Mapping[str, str] = field(default_factory=dict)
    agent_team: str = ""
    user: str = ""
    user_teams: tuple[str, ...] = ()
    owner: str = ""
    seconds: int
    max_uses: int = 0
    reason: str = ""
    ticket: str = ""
    starts_in: timedelta = timedelta()
    extension: bool = False
    items: tuple[ItemFacts, ...]
    history: HistoryFacts = HistoryFacts()
    time: datetime

    def context(self) -> dict[str, object]:
        """The variables of a condition. Minutes are rounded up: what lasts 30 min 1 s is not within 30 minutes."""
        return {
            "principal": {
                "agent": self.agent,
                "agent_labels": dict(self.agent_labels),
                "agent_team": self.agent_team,
                "user": self.user,
                "user_teams": list(self.user_teams),
                "owner": self.owner,
            },
            "request": {
                "minutes": -(-self.seconds // 60),
                "max_uses": self.max_uses or ANY_NUMBER,
                "reason": self.reason,
                "ticket": self.ticket,
                "starts_in_minutes": -(-int(self.starts_in.total_seconds()) // 60),
                "extension": self.extension,
                "risk": risk_of(self.items),
            },
            "items": [_plain(item) for item in self.items],
            "history": asdict(self.history),
            "time": self.time.astimezone(UTC),
        }

    def pinned(self) -> JsonObject:
        """The same as JSON, so that another policy can be asked about this request later: see `context_of`."""
        value: JsonObject = json.loads(json.dumps({**self.context(), "time": self.time.astimezone(UTC).isoformat()}))
        return value


@dataclass(frozen=True, slots=True)
class Tried:
    """What one rule said to a request: `matched`, and why its condition could not be evaluated ("" if it could)."""

    rule: str
    matched: bool
    error: str = ""


def choose(document: PolicyDocument, facts: RequestFacts) -> PolicyRule | None:
    """The first rule whose condition holds. None: no rule is for such requests, which are refused.

    So is a request for which a condition cannot be evaluated: whom that rule was to keep from what is not known, and a
    request could be made to be like that.
    """
    tried = explain(document, facts.context())
    return document.rules[len(tried) - 1] if tried and tried[-1].matched else None


def context_of(pinned: Mapping[str, Any]) -> dict[str, object]:
    """The variables of a condition, from what `RequestFacts.pinned` gave."""
    return {**pinned, "time": datetime.fromisoformat(pinned["time"])}


def explain(document: PolicyDocument, context: Mapping[str, object]) -> list[Tried]:
    """What each rule said, up to the one that decides, or that could not be evaluated."""
    tried: list[Tried] = []
    for rule in document.rules:
        tried.append(_try(rule, context))
        if tried[-1].matched or tried[-1].error:
            break
    return tried


def _try(rule: PolicyRule, context: Mapping[str, object]) -> Tried:
    try:
        return Tried(rule.name, rule.when is None or rule.when.holds(context))
    except ConditionError as error:
        return Tried(rule.name, matched=False, error=str(error))


def ensure_well_said(rule: PolicyRule, *, reason: str, ticket: str) -> None:
    """Raise Invalid("request.reason" or "request.ticket") with what this rule wants to read."""
    length, pattern = rule.reason.min_length, rule.reason.pattern
    if len(reason.strip()) < length:
        raise Invalid("request.reason", f"Give a reason of at least {length} characters.", min_length=length)
    if pattern and not pattern.matches(reason.strip()):
        raise Invalid("request.reason", f"The reason must match {pattern.source}.", pattern=pattern.source)
    wanted = rule.ticket.pattern
    form = f" that matches {wanted.source}" if wanted else ""
    params = {"pattern": wanted.source} if wanted else {}
    if rule.ticket.required and not ticket:
        raise Invalid("request.ticket", f"Give a ticket{form}.", **params)
    if ticket and wanted and not wanted.matches(ticket):
        raise Invalid("request.ticket", f"Give a ticket{form}, not this one.", **params)


def risk_of(items: Iterable[ItemFacts]) -> str:
    """One of RISKS, by the worst item: its access class, or a label `risk` of its server or tool that says more."""
    said = (named for item in items for named in (_BY_ACCESS.get(item.access, "high"), item.labels.get("risk", "")))
    return max((risk for risk in said if risk in RISKS), key=RISKS.index, default="high")


def _plain(item: ItemFacts) -> dict[str, object]:
    return {
        "kind": item.kind,
        "server": item.server,
        "tool": item.tool,
        "access": item.access,
        "labels": dict(item.labels),
        "role": item.role,
        "database": item.database,
        "objects": [*item.objects],
        "privileges": [*item.privileges],
        "exact": item.exact,
    }
