"""What a principal sees of a server: the same decision that a call would get, for all tools at once.

The tools of a server in order are the bits of a number. Each rule covers a set of them, worked out once, and what
decide() weighs tool by tool is here a handful of operations on sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from jitaccess.policy.engine.decide import Here, Visibility, Who, everything, look
from jitaccess.policy.engine.matching import Question
from jitaccess.policy.engine.rights import Ruled
from jitaccess.policy.engine.rules import RequestableFacts, RoleRule, ServerFacts, Snapshot, ToolFacts
from jitaccess.policy.engine.standing import Standing, stand
from jitaccess.policy.engine.verdict import Verdict

MAX_RULES = 10_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool in a list; a locked one with what says that it may be asked for, if it is not a role."""

    tool: ToolFacts
    visibility: Visibility
    requestable: RequestableFacts | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The tools that a principal may know about: `visible` and `locked` as bits, the n-th tool of `tools` is 1 << n.

    `grants` are the bindings of grants that give it any of the visible ones.
    """

    tools: Sequence[ToolFacts] = ()
    visible: int = 0
    locked: int = 0
    grants: tuple[UUID, ...] = ()


def seen(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> Seen:
    """What this principal sees of `server`, which is of this Snapshot."""
    has = stand(snapshot, who=who, server=server.id, at=at)
    if isinstance(has, Verdict):
        return Seen()
    table = _table(has.server)
    listed = has.listed
    if listed is None:
        here = look(snapshot, who=who, server=server.id, at=at)
        assert isinstance(here, Here)
        visible, locked = _bits(here, table)
        grants = (one.binding.id for one in here.has.grants if _allowed_by(here.asked, one, table) & visible)
        listed = (visible, locked, tuple(grants))
        if not here.has.rights.timed:
            here.has.listed = listed
    return Seen(table.tools, *listed)


def listed_tools(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> list[Listed]:
    """The tools of `server` that this principal may know about, by name: visible ones and locked stubs."""
    found, has = [], stand(snapshot, who=who, server=server.id, at=at)
    shown = seen(snapshot, who=who, server=server, at=at)
    for place, tool in enumerate(shown.tools):
        if shown.visible >> place & 1:
            found.append(Listed(tool, Visibility.VISIBLE))
        elif shown.locked >> place & 1:
            assert isinstance(has, Standing)
            requestable = next((one for one in has.askable.requestables if one.names(tool)), None)
            found.append(Listed(tool, Visibility.LOCKED, requestable))
    return found


@dataclass(slots=True)
class _Table:
    """The tools of a server by name, and which of them each rule covers."""

    tools: tuple[ToolFacts, ...]
    places: dict[UUID, int]
    quarantined: int
    # With the rule itself: nothing else may get its id meanwhile.
    covered: dict[int, tuple[RoleRule | RequestableFacts, int]] = field(default_factory=dict)

    def by(self, rule: RoleRule | RequestableFacts) -> int:
        """The tools that it covers, on a server that it is about; conditions aside."""
        known = self.covered.get(id(rule))
        if known is None:
            if len(self.covered) > MAX_RULES:
                self.covered.clear()
            covers = rule.covers if isinstance(rule, RoleRule) else rule.names
            known = self.covered[id(rule)] = (rule, _number(covers(tool) for tool in self.tools))
        return known[1]

    def by_any(self, rules: Iterable[RoleRule | RequestableFacts]) -> int:
        found = 0
        for rule in rules:
            found |= self.by(rule)
        return found


def _table(server: ServerFacts) -> _Table:
    table: _Table | None = server.memo.get("tools")
    if table is None:
        tools = tuple(server.tools[name] for name in sorted(server.tools))
        places = {tool.id: place for place, tool in enumerate(tools)}
        table = server.memo["tools"] = _Table(tools, places, _number(tool.quarantined for tool in tools))
    return table


def _number(bits: Iterable[bool]) -> int:
    return int("".join("01"[bit] for bit in bits)[::-1] or "0", 2)


def _bits(here: Here, table: _Table) -> tuple[int, int]:
    """(visible, locked): what visibility(weigh(...)) says of each tool."""
    asked, has = here.asked, here.has
    open_ = ~table.quarantined
    for _, rules in has.denying:
        for rule in rules:
            open_ &= ~_by(asked, rule, table, denies=True)
    for ceiling in has.ceilings:
        open_ &= _allowed_by(asked, ceiling, table)
    visible = open_ & _allowed(asked, has, table)
    hidden = visible
    if has.rights.stopped:  # what a lock stops is not to be asked for
        hidden |= _allowed(asked, everything(has), table)
    may_ask = table.by_any(has.askable.requestables)
    for _, rules in has.askable.roles:
        may_ask |= table.by_any(rules)
    return visible, open_ & may_ask & ~hidden


def _allowed(asked: Question, has: Standing, table: _Table) -> int:
    own = _by_one_of(asked, has.agents_own, table)
    if own and has.user:
        own &= _by_one_of(asked, has.users_own, table)
    return own | _by_one_of(asked, has.grants, table)


def _by_one_of(asked: Question, bindings: Iterable[Ruled], table: _Table) -> int:
    found = 0
    for one in bindings:
        found |= _allowed_by(asked, one, table)
    return found


def _allowed_by(asked: Question, ruled: Ruled, table: _Table) -> int:
    """The tools that this binding allows (matching.gives): those of a grant by their pins, all others by its rules."""
    named = found = 0
    for tool, granted in ruled.binding.tools.items():
        place = table.places.get(tool)
        if place is not None:
            named |= 1 << place
            found |= (granted.pin == table.tools[place].pin) << place
    by_rule = 0
    for rule in ruled.rules:
        by_rule |= _by(asked, rule, table, denies=False)
    if by_rule and ruled.pinned is not None:
        approved = 0
        for rule in ruled.pinned:
            approved |= _by(asked, rule, table, denies=False)
        by_rule &= approved
    return found | (by_rule & ~named)


def _by(asked: Question, rule: RoleRule, table: _Table, *, denies: bool) -> int:
    """The tools to which a rule applies."""
    covered = table.by(rule)
    if rule.plain or not covered:
        return covered
    if rule.labels is None and (rule.where is None or "tool" not in rule.where.variables):
        return 0 if asked.lacks(rule, table.tools[0], denies=denies) else covered
    return _number(
        bool(covered >> place & 1) and not asked.lacks(rule, tool, denies=denies)
        for place, tool in enumerate(table.tools)
    )
