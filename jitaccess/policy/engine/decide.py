"""The one decision: may this principal call this tool at this instant, because of what, until when, and if not, why.

Rights of an agent alone: its default and standing bindings and its grants. Of an agent on behalf of a user: what both
have by default and standing bindings, and the grants to exactly this pair. All of it inside every ceiling of either.
Deny rules of either beat every allow, and locks beat everything. Resources and prompts are decided by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from jitaccess.kernel.strictjson import JsonView
from jitaccess.kernel.uris import is_normal
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.matching import Kind, Offered, Question, Thing, covers, gives
from jitaccess.policy.engine.rights import (
    END_OF_TIME,
    START_OF_TIME,
    Ruled,
    Who,
    allowing,
    bindings_of,
    reachable,
)
from jitaccess.policy.engine.rules import BindingFacts, RequestableFacts, Snapshot, ToolFacts
from jitaccess.policy.engine.standing import Standing, next_edge, ruled_by, stand
from jitaccess.policy.engine.verdict import Code, Verdict, Visibility, visibility

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


@dataclass(frozen=True, slots=True)
class Match:
    binding: BindingFacts
    rule: str


@dataclass(frozen=True, slots=True)
class Here:
    """A question about a server, and what the principal has there."""

    asked: Question
    has: Standing


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
    answers: bool = False,
) -> Verdict:
    """The verdict for one call. Pure: everything it depends on is in the arguments. `server` None: of no server.

    `tool` is its name, or by `kind` the URI of a resource or the name of a prompt. `arguments` None: whether there are
    any that would do, which is what lists show; `digest` is theirs where known. `answers`: whether it carries answers
    to questions of the server.
    """
    has = stand(snapshot, who=who, server=server, at=at)
    if isinstance(has, Verdict):
        return has
    if kind is not Kind.TOOL:
        return _verdict(_here(snapshot, has, at, arguments, digest, answers), Offered(kind, tool))
    if arguments is not None and (settled := has.settled.get(tool)):
        return settled
    wanted = has.server.tools.get(tool)
    if wanted is None:
        return Verdict(Code.UNKNOWN, "no such tool", server=has.server)
    here = _here(snapshot, has, at, arguments, digest, answers)
    verdict = _verdict(here, wanted)
    if arguments is not None and not here.asked.turned_on and not has.rights.timed:
        has.settle(tool, verdict)
    return verdict


def decide_all(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime) -> Iterator[tuple[ToolFacts, Verdict]]:
    """The verdict for each tool of a server, by name: what `decide` says, with what they have in common done once."""
    here = look(snapshot, who=who, server=server, at=at)
    if isinstance(here, Verdict):
        return
    tools = here.has.server.tools
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
    answers: bool = False,
) -> Here | Verdict:
    """What the decision about anything of this server needs, or the verdict that is the same for all of it."""
    has = stand(snapshot, who=who, server=server, at=at)
    return has if isinstance(has, Verdict) else _here(snapshot, has, at, arguments, digest, answers)


def _here(snapshot: Snapshot, has: Standing, at: datetime, arguments: JsonView, digest: str, answers: bool) -> Here:
    if arguments is not None and not digest:
        digest = arguments_digest(arguments)
    return Here(Question(snapshot, has.agent, has.user, has.server, at, arguments, digest, answers), has)


def _verdict(here: Here, thing: Thing) -> Verdict:
    one = weigh(here, thing)
    since, until = here.has.rights.holds(here.asked.at)
    # By hand: this is done for every tool of a list, and replace() takes four times as long.
    return Verdict(
        one.code, one.rule, one.bindings, one.grant, one.counted, since, until, one.requestable,
        thing if isinstance(thing, ToolFacts) else None, here.has.server, one.roles,
    )  # fmt: skip


def weigh(here: Here, thing: Thing) -> Verdict:
    """The verdict without what is the same for all things: since, until, tool, server."""
    if isinstance(thing, Offered) and thing.kind is Kind.RESOURCE and not is_normal(thing.name):
        # A server could read another URI out of it than the one that is matched here.
        return Verdict(Code.UNKNOWN, "the URI is not in its normal form (RFC 3986, section 6.2)")
    has = here.has
    if has.denying and (denied := first_denial(here, thing)):
        return _denial(here, thing, denied)
    if has.ceilings and (beyond := beyond_ceiling(here, thing)):
        return _denial(here, thing, beyond, Code.UNKNOWN)
    tool = thing if isinstance(thing, ToolFacts) else None
    requestable = next((one for one in has.askable.requestables if one.names(tool)), None) if tool else None
    granted = _first(here.asked, has.grants, thing)
    base = _first(here.asked, has.agents_own, thing)
    if has.user and base:
        theirs = _first(here.asked, has.users_own, thing)
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
    roles = tuple(
        name for name, rules in here.has.askable.roles if any(covers(rule, thing, denies=False) for rule in rules)
    )
    if here.has.rights.stopped and (stopped := _stopped(here, thing)):
        return stopped
    if here.asked.arguments is not None and (other := _other_arguments(here, thing)):
        return replace(other, requestable=requestable, roles=roles)
    if requestable is None and not roles:
        return Verdict(Code.UNKNOWN, "neither allowed nor requestable")
    asked, spent = here.asked, here.asked.snapshot.spent
    past = [
        one
        for one in here.has.rights.past
        if one.granted
        and (one.ended_at is not None or one.starts_at <= asked.at)  # one can be ended before it starts
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
    for ruled in (*here.has.grants, *here.has.agents_own, *here.has.users_own):
        if ruled.binding.id in named:
            gives(here.asked, ruled, thing, why=why)
    return Verdict(Code.OTHER_ARGUMENTS, why[0] if why else "allowed with other arguments", grant=listed.grant)


def _stopped(here: Here, thing: Thing) -> Verdict | None:
    """The refusal of what would be allowed but for a lock on a role or a grant."""
    has = everything(here.has)
    full = replace(here, has=has)
    allowed = weigh(full, thing)
    stopped = here.has.rights.stopped
    lock = next((stopped[one] for one in allowed.bindings if one in stopped), None)
    return Verdict(Code.LOCKED_DOWN, str(lock), grant=allowed.grant) if lock else None


def everything(has: Standing) -> Standing:
    """The same rights, were no role and no grant locked."""
    own, server = has.rights, has.server
    return replace(
        has,
        rights=replace(own, stopped={}),
        agents_own=ruled_by(own.agents_own, server, ()),
        users_own=ruled_by(own.users_own, server, ()),
        grants=ruled_by(own.grants, server, ()),
    )


def without_arguments(here: Here) -> Here:
    """The same question with any arguments."""
    return replace(here, asked=replace(here.asked, arguments=None, digest=""))


def first_denial(here: Here, thing: Thing) -> str:
    """The deny rule that applies, for people; "" when none does."""
    for role, rules in here.has.denying:
        for rule in rules:
            if covers(rule, thing, denies=True) and (rule.plain or not here.asked.lacks(rule, thing, denies=True)):
                return f"{role}, deny rule {rule.number}"
    return ""


def beyond_ceiling(here: Here, thing: Thing) -> str:
    """The ceiling that does not allow it, for people; "" when all do."""
    for ruled in here.has.ceilings:
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
