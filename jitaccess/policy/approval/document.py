"""Approval policies as YAML documents, read strictly: what could never work is refused with its line and a cure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import Pattern, compile_pattern
from jitaccess.kernel.text import is_slug, visible
from jitaccess.kernel.yamldoc import Node, Reader, line_of
from jitaccess.policy.engine.conditions import Condition, ConditionError, compile_condition

VARIABLES = ("principal", "request", "items", "history", "time")
CHANNELS = ("web", "slack", "cli", "api", "admin")
DEFAULT_PENDING = 60 * 60
MAX_PENDING = 7 * 86_400
MAX_DURATION = 30 * 86_400
MAX_RULES = 50
MAX_PEOPLE = 20  # of a quorum, and of a deny threshold

_READ = Reader("policy.invalid")
_TOP = ("kind", "version", "metadata", "spec")
_USERNAME = re.compile(r"[\w.@+-]{1,150}")
_GROUP_KEYS = ("name", "people", "quorum")
_FOR_PEOPLE = (
    *("stages", "deny_threshold", "pending", "channels", "step_up"),
    *("reminders", "escalate", "fallback", "cool_down"),
)
_RULE_KEYS = ("name", "when", "auto_approve", "reason", "ticket", "max_duration", *_FOR_PEOPLE)
# Outside of quotes, spaces say nothing in CEL.
_SPACE = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\s+""", re.DOTALL)


class Kind(StrEnum):
    """What a selector of people names."""

    USER = "user"
    TEAM = "team"
    SCHEDULE = "schedule"
    SERVER_OWNERS = "server-owners"
    ROLE_OWNERS = "role-owners"
    MANAGER = "manager"


_NAMED = (Kind.USER, Kind.TEAM, Kind.SCHEDULE)


@dataclass(frozen=True, slots=True)
class Selector:
    """People by name (`user:anna`, `team:demo`, `schedule:ops`) or by what they are to the request (`manager`)."""

    kind: Kind
    name: str = ""
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """People of whom `quorum` (1 or more) distinct ones must approve."""

    name: str
    people: tuple[Selector, ...]
    quorum: int
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """Groups that must all be met before the next stage is asked."""

    groups: tuple[GroupSpec, ...]


@dataclass(frozen=True, slots=True)
class Escalation:
    """Groups that are asked as well, when a request was pending for `after` seconds."""

    after: int
    groups: tuple[GroupSpec, ...]


@dataclass(frozen=True, slots=True)
class ReasonCheck:
    min_length: int = 0
    pattern: Pattern | None = None


@dataclass(frozen=True, slots=True)
class TicketCheck:
    required: bool = False
    pattern: Pattern | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """One rule: for which requests, and who decides them how. Times in seconds; `max_seconds` None: no cap here."""

    name: str
    when: Condition | None
    auto_approve: bool
    stages: tuple[Stage, ...]
    deny_threshold: int
    reason: ReasonCheck
    ticket: TicketCheck
    max_seconds: int | None
    pending_seconds: int
    channels: tuple[str, ...]
    step_up: bool
    reminders: tuple[int, ...]
    escalations: tuple[Escalation, ...]
    fallback: GroupSpec | None
    cool_down_seconds: int
    line: int = field(default=0, compare=False)

    def groups(self) -> Iterator[GroupSpec]:
        """Every group that this rule could ask."""
        for stage in self.stages:
            yield from stage.groups
        for escalation in self.escalations:
            yield from escalation.groups
        if self.fallback:
            yield self.fallback


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    name: str
    description: str
    rules: tuple[PolicyRule, ...]
    version: int = 0


def parse_policy(text: str, *, version: int = 0) -> PolicyDocument:
    """The policy in a YAML document. Raises Invalid("policy.invalid", params line, path, expected)."""
    root = _READ.compose(text)
    if root is None:
        raise _READ.mistake(1, "", "a document with kind, version, metadata and spec")
    top = _READ.members(root, "", _TOP, required=_TOP)
    _READ.exactly(top["kind"], "kind", "approval-policy")
    _READ.exactly(top["version"], "version", "v1")
    metadata = _READ.members(top["metadata"], "metadata", ("name", "description"), required=("name",))
    name = _slug(metadata["name"], "metadata.name")
    description = _READ.text(metadata["description"], "metadata.description") if "description" in metadata else ""
    spec = _READ.members(top["spec"], "spec", ("rules",), required=("rules",))
    rules = _READ.items(spec["rules"], "spec.rules", _rule)
    if not 1 <= len(rules) <= MAX_RULES:
        expected = f"1 to {MAX_RULES} rules, or no request could ever be filed"
        raise _READ.mistake(line_of(spec["rules"]), "spec.rules", expected)
    _ensure_reachable(rules)
    return PolicyDocument(name, description, tuple(rules), version)


def is_constant(when: Condition | None) -> bool | None:
    """The answer of a condition that is the same for every request; None when it depends on one."""
    if when is None:
        return True
    try:
        return when.holds({})
    except ConditionError:
        return None


def _rule(node: Node, path: str) -> PolicyRule:
    members = _READ.members(node, path, _RULE_KEYS, required=("name",), expected="a rule: name, when, stages, …")
    automatic = "auto_approve" in members and _READ.flag(members["auto_approve"], f"{path}.auto_approve")
    if automatic:
        for key in _FOR_PEOPLE:
            if key in members:
                expected = "no such key beside `auto_approve: true`: nobody is asked, so it would mean nothing"
                raise _READ.mistake(line_of(members[key]), f"{path}.{key}", expected)
    elif "stages" not in members:
        raise _READ.mistake(line_of(node), path, "`stages:` with the people who decide, or `auto_approve: true`")
    pending = _seconds(members, path, "pending", most=MAX_PENDING, default=DEFAULT_PENDING)
    rule = PolicyRule(
        name=_slug(members["name"], f"{path}.name"),
        when=_condition(members["when"], f"{path}.when") if "when" in members else None,
        auto_approve=automatic,
        stages=() if automatic else _stages(members["stages"], f"{path}.stages"),
        deny_threshold=_whole(members, path, "deny_threshold", most=MAX_PEOPLE, default=1),
        reason=_reason(members.get("reason"), f"{path}.reason"),
        ticket=_ticket(members.get("ticket"), f"{path}.ticket"),
        max_seconds=_seconds(members, path, "max_duration", most=MAX_DURATION, default=0) or None,
        pending_seconds=pending,
        channels=_channels(members.get("channels"), f"{path}.channels"),
        step_up="step_up" in members and _READ.flag(members["step_up"], f"{path}.step_up"),
        reminders=_reminders(members.get("reminders"), f"{path}.reminders", pending),
        escalations=_escalations(members.get("escalate"), f"{path}.escalate", pending),
        fallback=_group(members["fallback"], f"{path}.fallback") if "fallback" in members else None,
        cool_down_seconds=_seconds(members, path, "cool_down", most=MAX_DURATION, default=0),
        line=line_of(node),
    )
    _ensure_groups_differ(rule, path)
    _ensure_deniable(rule, path, members.get("deny_threshold", node))
    return rule


def _stages(node: Node, path: str) -> tuple[Stage, ...]:
    stages = _READ.items(node, path, _stage)
    if not stages:
        raise _READ.mistake(line_of(node), path, "at least one stage, or nobody would ever decide")
    return tuple(stages)


def _stage(node: Node, path: str) -> Stage:
    members = _READ.members(node, path, ("groups",), required=("groups",), expected="a stage: `groups:` with people")
    return Stage(_groups(members["groups"], f"{path}.groups"))


def _groups(node: Node, path: str) -> tuple[GroupSpec, ...]:
    groups = _READ.items(node, path, _group)
    if not groups:
        raise _READ.mistake(line_of(node), path, "at least one group: a stage of nobody would be met by nobody")
    return tuple(groups)


def _group(node: Node, path: str) -> GroupSpec:
    members = _READ.members(node, path, _GROUP_KEYS, required=("name", "people"), expected="a group: name, people")
    people = _READ.items(members["people"], f"{path}.people", _selector)
    if not people:
        expected = "people, as in [team:ops, user:anna]: an empty group could never approve anything"
        raise _READ.mistake(line_of(members["people"]), f"{path}.people", expected)
    for number, selector in enumerate(people):
        if selector in people[:number]:
            raise _READ.mistake(selector.line, f"{path}.people", f"{selector} once, not twice")
    quorum = _whole(members, path, "quorum", most=MAX_PEOPLE, default=1)
    if all(one.kind is Kind.USER for one in people) and quorum > len(people):
        expected = f"a quorum of at most {len(people)}, for the group names no more people; or add people"
        raise _READ.mistake(line_of(members["quorum"]), f"{path}.quorum", expected)
    return GroupSpec(_slug(members["name"], f"{path}.name"), tuple(people), quorum, line_of(node))


def _selector(node: Node, path: str) -> Selector:
    text = _READ.text(node, path)
    kind, colon, name = text.partition(":")
    line = line_of(node)
    if kind in _NAMED and colon:
        known = _USERNAME.fullmatch(name) is not None if kind == Kind.USER else is_slug(name, limit=40)
        if known:
            return Selector(Kind(kind), name, line)
    elif not colon and kind in (Kind.SERVER_OWNERS, Kind.ROLE_OWNERS, Kind.MANAGER):
        return Selector(Kind(kind), "", line)
    expected = "user:<name>, team:<name>, schedule:<name>, server-owners, role-owners or manager"
    raise _READ.mistake(line, path, f"{expected}, not {visible(text, limit=80)!r}")


def _condition(node: Node, path: str) -> Condition:
    source = _READ.text(node, path)
    try:
        return compile_condition(source, variables=VARIABLES)
    except Invalid as error:
        line, column = error.params.get("line"), error.params.get("column")
        within = f" (line {line}, column {column} of it)" if isinstance(line, int) else ""
        expected = f"a condition over {', '.join(VARIABLES)}{within}: {visible(error.detail, limit=300)}"
        block = getattr(node, "style", None) in ("|", ">")  # the text of a block starts on the line after its key
        offset = (line - 1 if isinstance(line, int) else 0) + block
        raise _READ.mistake(line_of(node) + offset, path, expected.rstrip(".")) from error


def _reason(node: Node | None, path: str) -> ReasonCheck:
    if node is None:
        return ReasonCheck()
    members = _READ.members(node, path, ("min_length", "pattern"))
    return ReasonCheck(
        min_length=_whole(members, path, "min_length", most=2000, default=0),
        pattern=_pattern(members.get("pattern"), f"{path}.pattern"),
    )


def _ticket(node: Node | None, path: str) -> TicketCheck:
    if node is None:
        return TicketCheck()
    members = _READ.members(node, path, ("required", "pattern"))
    return TicketCheck(
        required="required" in members and _READ.flag(members["required"], f"{path}.required"),
        pattern=_pattern(members.get("pattern"), f"{path}.pattern"),
    )


def _pattern(node: Node | None, path: str) -> Pattern | None:
    if node is None:
        return None
    source = _READ.text(node, path)
    try:
        pattern = compile_pattern(source)
    except Invalid as error:
        raise _READ.mistake(line_of(node), path, f"^regex$ ({error.detail})") from error
    if not source.startswith("^"):
        raise _READ.mistake(line_of(node), path, f"^regex$, not {visible(source, limit=80)!r}")
    return pattern


def _channels(node: Node | None, path: str) -> tuple[str, ...]:
    if node is None:
        return CHANNELS
    channels = _READ.items(node, path, lambda item, where: _READ.one_of(item, where, CHANNELS))
    if not channels:
        raise _READ.mistake(line_of(node), path, f"some of {', '.join(CHANNELS)}, or nobody could decide")
    return tuple(dict.fromkeys(channels))


def _reminders(node: Node | None, path: str, pending: int) -> tuple[int, ...]:
    return tuple(sorted(set(_READ.items(node, path, lambda item, where: _before(item, where, pending)))))


def _escalations(node: Node | None, path: str, pending: int) -> tuple[Escalation, ...]:
    def read(item: Node, where: str) -> Escalation:
        keys = ("after", "groups")
        members = _READ.members(item, where, keys, required=keys, expected="an escalation: `after:` and `groups:`")
        after = _before(members["after"], f"{where}.after", pending)
        return Escalation(after, _groups(members["groups"], f"{where}.groups"))

    return tuple(sorted(_READ.items(node, path, read), key=lambda one: one.after))


def _before(node: Node, path: str, pending: int) -> int:
    """A moment of a request's wait. One that comes when it has expired would silently never come."""
    seconds = _READ.duration(node, path, most=MAX_PENDING)
    if seconds >= pending:
        expected = f"less than the {pending} s after which a request expires; raise `pending:` or lower this"
        raise _READ.mistake(line_of(node), path, expected)
    return seconds


def _seconds(members: dict[str, Node], path: str, key: str, *, most: int, default: int) -> int:
    return _READ.duration(members[key], f"{path}.{key}", most=most) if key in members else default


def _whole(members: dict[str, Node], path: str, key: str, *, most: int, default: int) -> int:
    return _READ.whole(members[key], f"{path}.{key}", least=1, most=most) if key in members else default


def _slug(node: Node, path: str) -> str:
    name = _READ.text(node, path)
    if not is_slug(name, limit=40):
        expected = "small letters, digits and hyphens, at most 40, starting and ending with a letter or digit"
        raise _READ.mistake(line_of(node), path, expected)
    return name


def _ensure_groups_differ(rule: PolicyRule, path: str) -> None:
    seen: set[str] = set()
    for group in rule.groups():
        if group.name in seen:
            raise _READ.mistake(group.line, path, f"each group name once in a rule; {group.name} is there twice")
        seen.add(group.name)


def _ensure_deniable(rule: PolicyRule, path: str, node: Node) -> None:
    """A threshold above the number of people who may act: no number of denials would end the request."""
    people = {one for group in rule.groups() for one in group.people}
    if rule.stages and all(one.kind is Kind.USER for one in people) and rule.deny_threshold > len(people):
        expected = f"at most {len(people)}, for no more people could deny; lower it or add people"
        raise _READ.mistake(line_of(node), f"{path}.deny_threshold", expected)


def _ensure_reachable(rules: Iterable[PolicyRule]) -> None:
    names: set[str] = set()
    conditions: dict[str, str] = {}
    catches_all = ""
    for number, rule in enumerate(rules, start=1):
        path = f"spec.rules[{number}]"
        if rule.name in names:
            raise _READ.mistake(rule.line, f"{path}.name", f"each rule name once; {rule.name} is there twice")
        if catches_all:
            expected = (
                f"no rule after {catches_all!r}, which takes every request; move it before, or give that one a `when`"
            )
            raise _READ.mistake(rule.line, path, expected)
        constant = is_constant(rule.when)
        if constant is False:
            expected = "a condition that can hold; this one is false for every request, so the rule would never decide"
            raise _READ.mistake(rule.line, f"{path}.when", expected)
        source = _SPACE.sub(lambda found: found[1] or "", rule.when.source) if rule.when else ""
        if source in conditions:
            expected = f"another condition than that of {conditions[source]!r}, which takes all these requests first"
            raise _READ.mistake(rule.line, f"{path}.when", expected)
        names.add(rule.name)
        conditions[source] = rule.name
        catches_all = rule.name if constant else ""
