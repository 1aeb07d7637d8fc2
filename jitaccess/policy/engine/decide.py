"""The one decision: may this principal call this tool at this instant, because of what, until when, and if not, why.

Rights of an agent alone: its default and standing bindings and its grants. Of an agent on behalf of a user: what both
have by default and standing bindings, and the grants to exactly this pair. All of it inside every ceiling of either.
Deny rules of either beat every allow, and locks beat everything. Resources and prompts are decided by the same rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from jitaccess.kernel.strictjson import JsonView
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.matching import Kind, Offered, Question, Thing, covers, gives
from jitaccess.policy.engine.rights import (
    END_OF_TIME,
    START_OF_TIME,
    Rights,
    Ruled,
    Who,
    allowing,
    bindings_of,
    denying,
    lock_on,
    lock_on_server,
    next_edge,
    reachable,
    rights,
    server_open_to,
    user_may_act,
)
from jitaccess.policy.engine.rules import (
    BindingFacts,
    RequestableFacts,
    RoleFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    ToolFacts,
)

__all__ = [
    "END_OF_TIME",
    "START_OF_TIME",
    "Code",
    "Kind",
    "Verdict",
    "Visibility",
    "Who",
    "bindings_of",
    "decide",
    "decide_all",
    "next_edge",
    "reachable",
    "visibility",
]


class Code(StrEnum):
    """Why. All but ALLOWED are refusals; UNKNOWN is answered as if the tool did not exist."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    NO_BINDING = "no_binding"
    OTHER_ARGUMENTS = "other_arguments"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"
    QUARANTINED = "quarantined"
    LOCKED_DOWN = "locked_down"
    NOT_REQUESTABLE = "not_requestable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. It holds while `since` <= time < `until`, at the snapshot's version.

    `bindings` are those that allow the call (two for an intersection); `rule` names what decided, for people.
    `counted` is the binding of which the call is one use, when its uses are counted.
    `requestable` is what could be asked for instead, when the tool may be asked for; `roles` are the names of the
    roles that would do and may be asked for.
    """

    code: Code
    rule: str
    bindings: tuple[UUID, ...] = ()
    grant: UUID | None = None
    counted: UUID | None = None
    since: datetime = START_OF_TIME
    until: datetime = END_OF_TIME
    requestable: RequestableFacts | None = None
    tool: ToolFacts | None = None
    server: ServerFacts | None = None
    roles: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.code is Code.ALLOWED


@dataclass(frozen=True, slots=True)
class Match:
    binding: BindingFacts
    rule: str


@dataclass(frozen=True, slots=True)
class Here:
    """A principal's rights on one server."""

    asked: Question
    rights: Rights
    agents_own: tuple[Ruled, ...]
    users_own: tuple[Ruled, ...]
    grants: tuple[Ruled, ...]
    ceilings: tuple[Ruled, ...]
    denying: tuple[tuple[RoleFacts, tuple[RoleRule, ...]], ...]
    requestables: tuple[RequestableFacts, ...]
    roles: tuple[tuple[str, tuple[RoleRule, ...]], ...]


def decide(
    snapshot: Snapshot,
    *,
    who: Who,
    server: UUID | None,
    tool: str,
    at: datetime,
    arguments: JsonView = None,
    digest: str = "",
    kind: Kind = Kind.TOOL,
) -> Verdict:
    """The verdict for one call. Pure: everything it depends on is in the arguments. `server` None: of no server.

    `tool` is its name, or by `kind` the URI of a resource or the name of a prompt. `arguments` None: whether there are
    any that would do, which is what lists show; `digest` is theirs where known.
    """
    here = look(snapshot, who=who, server=server, at=at, arguments=arguments, digest=digest)
    if isinstance(here, Verdict):
        return here
    if kind is not Kind.TOOL:
        return _verdict(here, Offered(kind, tool))
    wanted = here.asked.server.tools.get(tool)
    if wanted is None:
        return Verdict(Code.UNKNOWN, "no such tool", server=here.asked.server)
    return _verdict(here, wanted)


def decide_all(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime) -> Iterator[tuple[ToolFacts, Verdict]]:
    """The verdict for each tool of a server, by name: what `decide` says, with what they have in common done once."""
    here = look(snapshot, who=who, server=server, at=at)
    if isinstance(here, Verdict):
        return
    tools = here.asked.server.tools
    for name in sorted(tools):
        yield tools[name], _verdict(here, tools[name])


def look(
    snapshot: Snapshot,
    *,
    who: Who,
    server: UUID | None,
    at: datetime,
    arguments: JsonView = None,
    digest: str = "",
) -> Here | Verdict:
    """What the decision about anything of this server needs, or the verdict that is the same for all of it."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not agent.enabled or not user_may_act(snapshot, agent, who.user):
        return Verdict(Code.LOCKED_DOWN, "the agent is disabled, or its user is not active or may no longer use it")
    owner = snapshot.users.get(agent.owner)
    if owner is None or not owner.active:
        return Verdict(Code.LOCKED_DOWN, "the agent's owner is not active")
    if lock := lock_on(snapshot, who=who, at=at):
        return Verdict(Code.LOCKED_DOWN, str(lock))
    facts = snapshot.servers.get(server) if server is not None else None
    if facts is None or not facts.enabled or not server_open_to(snapshot, facts, agent, who.user):
        return Verdict(Code.UNKNOWN, "no such server for this principal")
    if lock := lock_on_server(snapshot, server=facts.id, at=at):
        return Verdict(Code.LOCKED_DOWN, str(lock), server=facts)
    user = snapshot.users[who.user] if who.user else None
    if arguments is not None and not digest:
        digest = arguments_digest(arguments)
    has = rights(snapshot, agent, who, at)
    for ceiling in has.ceilings:
        if lock := has.stopped.get(ceiling.id):
            return Verdict(Code.LOCKED_DOWN, str(lock), server=facts)
    team = snapshot.teams.get(agent.team, "")
    return Here(
        Question(snapshot, agent, user, facts, at, arguments, digest),
        has,
        _allowing(has.agents_own, facts, has.stopped),
        _allowing(has.users_own, facts, has.stopped),
        _allowing(has.grants, facts, has.stopped),
        _allowing(has.ceilings, facts, {}),
        tuple(pair for one in has.denying for pair in denying(one, facts)),
        tuple(one for one in snapshot.requestables if one.server == facts.id and one.team in (None, agent.team)),
        tuple(
            (role.name, tuple(rule for rule in role.allow if rule.about(facts)))
            for role in snapshot.roles.values()
            if role.request and (role.request.teams is None or team in role.request.teams)
        ),
    )


def _allowing(bindings: Iterable[BindingFacts], server: ServerFacts, but: Collection[UUID]) -> tuple[Ruled, ...]:
    return tuple(allowing(one, server) for one in bindings if one.id not in but)


def _verdict(here: Here, thing: Thing) -> Verdict:
    one, has = weigh(here, thing), here.rights
    # By hand: this is done for every tool of a list, and replace() takes four times as long.
    return Verdict(
        one.code, one.rule, one.bindings, one.grant, one.counted, has.since, has.until, one.requestable,
        thing if isinstance(thing, ToolFacts) else None, here.asked.server, one.roles,
    )  # fmt: skip


def weigh(here: Here, thing: Thing) -> Verdict:
    """The verdict without what is the same for all things: since, until, tool, server."""
    if here.denying and (denied := first_denial(here, thing)):
        return _denial(here, thing, denied)
    if here.ceilings and (beyond := beyond_ceiling(here, thing)):
        return _denial(here, thing, beyond, Code.UNKNOWN)
    tool = thing if isinstance(thing, ToolFacts) else None
    requestable = next((one for one in here.requestables if one.names(tool)), None) if tool else None
    granted = _first(here.asked, here.grants, thing)
    base = _first(here.asked, here.agents_own, thing)
    if here.asked.user and base:
        theirs = _first(here.asked, here.users_own, thing)
        matches: tuple[Match, ...] = (base, theirs) if theirs else ()
    else:
        matches = (base,) if base else ()
    if tool and tool.quarantined:
        # Known to this principal, so it is told; to anybody else the tool does not exist.
        known = granted or matches or requestable
        return Verdict(Code.QUARANTINED if known else Code.UNKNOWN, "the tool's definition awaits review by an admin")
    if matches:
        rule = " and ".join(match.rule for match in matches)
        return Verdict(Code.ALLOWED, rule, tuple(match.binding.id for match in matches))
    if granted:
        binding = granted.binding
        counted = binding.id if binding.max_uses is not None else None
        return Verdict(Code.ALLOWED, granted.rule, (binding.id,), binding.grant, counted)
    return _refusal(here, thing, requestable)


def _refusal(here: Here, thing: Thing, requestable: RequestableFacts | None) -> Verdict:
    """Why, from the nearest to the farthest: a lock, other arguments, a grant that was, or nothing at all."""
    roles = tuple(name for name, rules in here.roles if any(covers(rule, thing, denies=False) for rule in rules))
    if here.rights.stopped and (stopped := _stopped(here, thing)):
        return stopped
    if here.asked.arguments is not None and (other := _other_arguments(here, thing)):
        return replace(other, requestable=requestable, roles=roles)
    if requestable is None and not roles:
        return Verdict(Code.UNKNOWN, "neither allowed nor requestable")
    asked, spent = here.asked, here.asked.snapshot.spent
    past = [
        one
        for one in here.rights.past
        if one.granted
        and one.starts_at <= asked.at
        and (not one.live(asked.at) or one.id in spent)
        and gives(asked, allowing(one, asked.server), thing, pin=False)
    ]
    if not past:
        return Verdict(Code.NO_BINDING, "no live binding allows it", requestable=requestable, roles=roles)
    last = max(past, key=lambda one: (one.ended_at or one.expires_at or asked.at, one.id))
    code = Code.USED_UP if last.id in spent else Code.REVOKED if last.ended_at else Code.EXPIRED
    rule = f"the grant {last.grant} has ended"
    return Verdict(code, rule, grant=last.grant, requestable=requestable, roles=roles)


def _denial(here: Here, thing: Thing, why: str, code: Code = Code.NOT_REQUESTABLE) -> Verdict:
    """Hidden as if it did not exist; unless it is in the list, because other arguments would do."""
    if here.asked.arguments is not None and visibility(weigh(without_arguments(here), thing)) is not Visibility.HIDDEN:
        return Verdict(Code.OTHER_ARGUMENTS, why)
    return Verdict(code, why)


def _other_arguments(here: Here, thing: Thing) -> Verdict | None:
    """The refusal of what is in the list, because other arguments would do."""
    listed = weigh(without_arguments(here), thing)
    if not listed.allowed:
        return None
    named = set(listed.bindings)
    why: list[str] = []
    for ruled in (*here.grants, *here.agents_own, *here.users_own):
        if ruled.binding.id in named:
            gives(here.asked, ruled, thing, why=why)
    return Verdict(Code.OTHER_ARGUMENTS, why[0] if why else "allowed with other arguments", grant=listed.grant)


def _stopped(here: Here, thing: Thing) -> Verdict | None:
    """The refusal of what would be allowed but for a lock on a role or a grant."""
    has, server = here.rights, here.asked.server
    full = replace(
        here,
        rights=replace(has, stopped={}),
        agents_own=_allowing(has.agents_own, server, ()),
        users_own=_allowing(has.users_own, server, ()),
        grants=_allowing(has.grants, server, ()),
    )
    allowed = weigh(full, thing)
    lock = next((has.stopped[one] for one in allowed.bindings if one in has.stopped), None)
    return Verdict(Code.LOCKED_DOWN, str(lock), grant=allowed.grant) if lock else None


def without_arguments(here: Here) -> Here:
    """The same question with any arguments."""
    return replace(here, asked=replace(here.asked, arguments=None, digest=""))


def first_denial(here: Here, thing: Thing) -> str:
    """The deny rule that applies, for people; "" when none does."""
    for role, rules in here.denying:
        for rule in rules:
            if covers(rule, thing, denies=True) and (rule.plain or not here.asked.lacks(rule, thing, denies=True)):
                return f"{role}, deny rule {rule.number}"
    return ""


def beyond_ceiling(here: Here, thing: Thing) -> str:
    """The ceiling that does not allow it, for people; "" when all do."""
    for ruled in here.ceilings:
        why: list[str] = []
        if not gives(here.asked, ruled, thing, why=why):
            lacking = f" ({why[0]})" if why else ""
            return f"it is beyond the ceiling {ruled.binding.role or ruled.binding.id}{lacking}"
    return ""


def _first(asked: Question, bindings: Iterable[Ruled], thing: Thing) -> Match | None:
    """The first that allows it: by its pin, or by a rule."""
    for ruled in bindings:
        if rule := gives(asked, ruled, thing):
            return Match(ruled.binding, rule)
    return None


class Visibility(StrEnum):
    VISIBLE = "visible"
    LOCKED = "locked"
    HIDDEN = "hidden"


def visibility(verdict: Verdict) -> Visibility:
    """How a tool with this verdict is listed: the same decision that a call would get."""
    if verdict.allowed:
        return Visibility.VISIBLE
    return Visibility.LOCKED if verdict.requestable or verdict.roles else Visibility.HIDDEN
