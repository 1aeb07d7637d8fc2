"""`/access`: asking for an agent of one's own, and for more time, from Slack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Forbidden, Invalid, NotFound
from jitaccess.kernel.text import visible
from jitaccess.notify.slack import blocks as kit
from jitaccess.notify.slack.blocks import Block
from jitaccess.notify.slack.modals import Filled, filled_of
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.listing import listed_tools
from jitaccess.policy.engine.rules import Snapshot, Subject
from requests_app.asking import requestable_roles
from requests_app.card.card import SNAPSHOTS
from requests_app.card.effects import SHORTER
from requests_app.inputs import json_of
from requests_app.selectors import AccessRequest, Grant
from requests_app.services import Ask, ExactCall, Submission, extend_grant, submit_bundle

CHANNEL = "slack"
_NOTHING = "none"


def suggestions(payload: Mapping[str, Any], user: User | None) -> Mapping[str, Any]:
    """The options that an external select shows for what was typed so far: at most 100, and never none at all, which
    Slack shows as an error.
    """
    typed, call = payload.get("value"), payload.get("block_id") == "call"
    search = typed.casefold()[:100] if isinstance(typed, str) else ""
    found: list[Block] = []
    if user is not None:
        filled = filled_of(payload)
        agent = _agent(user, filled.chosen("agent")) or agents_for(user).order_by("name").first()
        if agent is not None:
            for one in _askable(agent, user if filled.for_me else None, call=call):
                if search in one["text"]["text"].casefold():
                    found.append(one)
                if len(found) == kit.OPTIONS:
                    break
    return {"options": found or [kit.option("Nothing found", _NOTHING)]}


def file(filled: Filled, user: User, *, source: str) -> list[AccessRequest]:
    """File what the form says, as one request for each group of people who decide. Raises as submit_bundle."""
    principal, ask = meant(filled, user, source=source)
    snapshot, _ = SNAPSHOTS.look(Subject(agent=principal.agent, user=principal.user))
    return [one.request for one in submit_bundle(principal=principal, ask=ask, snapshot=snapshot, filed_by=user)]


def tried(principal: Principal, ask: Ask, user: User) -> list[Submission]:
    """What filing it would bring about; nothing of it stays. Raises as submit_bundle."""
    snapshot, _ = SNAPSHOTS.look(Subject(agent=principal.agent, user=principal.user))
    return submit_bundle(principal=principal, ask=ask, snapshot=snapshot, dry_run=True, filed_by=user)


def meant(filled: Filled, user: User, *, source: str) -> tuple[Principal, Ask]:
    """For whom the form asks, and for what. Raises Forbidden for an agent that is not theirs, Invalid for what is no
    number or no JSON.
    """
    agent = _agent(user, filled.chosen("agent"))
    if agent is None:
        raise Forbidden("request.not_your_agent", "You may ask for agents that you own or may use.")
    principal = _principal(agent, user if filled.for_me else None, source)
    tools, roles = _chosen(filled.several("things") or [])
    call = next(iter(_chosen([filled.chosen("call")])[0]), None)
    arguments = json_of(filled.text("arguments"))
    if arguments and call is None:
        raise Invalid("request.arguments", "Choose the tool to call with them.")
    ask = Ask(
        tools=tools,
        roles=roles,
        calls=[ExactCall(*call, arguments=arguments)] if call else (),
        reason=filled.text("reason"),
        seconds=filled.number("seconds", filled.chosen("seconds")),
        max_uses=filled.number("uses", filled.text("uses")),
        starts_at=filled.moment("starts"),
        not_after=filled.moment("over"),
        ticket=filled.text("ticket").strip(),
    )
    return principal, ask


def longer_by(request: AccessRequest) -> list[int]:
    """By how many seconds the access of this request can still be extended. Raises NotFound, Invalid."""
    grant = _grant(request)
    left = int(((grant.latest or grant.expires_at) - grant.expires_at) / timedelta(seconds=1))
    found = [one for one in SHORTER if one <= left]
    if not found:
        most = f" ({format_duration(left)} are left)" if left >= 60 else ""
        raise Invalid("grant.life_over", f"This access cannot be extended any more{most}; ask for it anew.")
    return found


def extend(filled: Filled, request: AccessRequest, user: User, *, source: str) -> AccessRequest:
    """Ask for more time. Raises as extend_grant, Forbidden for what the agent holds for somebody else."""
    grant = _grant(request)
    if grant.user_id not in {None, user.pk}:
        raise Forbidden("request.not_your_agent", "The agent holds this for somebody else, who can ask for more time.")
    principal = _principal(grant.agent, grant.user, source)
    snapshot, _ = SNAPSHOTS.look(Subject(agent=principal.agent, user=principal.user))
    return extend_grant(
        grant_id=grant.pk,
        principal=principal,
        seconds=filled.number("seconds", filled.chosen("seconds")) or 0,
        reason=filled.text("reason"),
        snapshot=snapshot,
        filed_by=user,
    ).request


def _grant(request: AccessRequest) -> Grant:
    found = Grant.objects.select_related("agent", "user").filter(request=request).first()
    if found is None:
        raise NotFound("grant.unknown", "There is no access to extend.")
    return found


def _principal(agent: Agent, user: User | None, source: str) -> Principal:
    return Principal(
        agent=agent.pk,
        agent_name=agent.name,
        user=user.pk if user else None,
        user_name=user.username if user else "",
        client=CHANNEL,
        source=source,
    )


def _agent(user: User, text: str) -> Agent | None:
    try:
        return agents_for(user).filter(pk=UUID(text)).first()
    except ValueError:
        return None


def _askable(agent: Agent, user: User | None, *, call: bool) -> Iterator[Block]:
    """What this agent may ask for and does not have: roles, and tools that need no arguments beforehand; or (`call`)
    every tool, for one exact call.
    """
    snapshot, at = SNAPSHOTS.look(Subject(agent=agent.pk, user=user.pk if user else None))
    for role in () if call else requestable_roles(snapshot, agent.pk):
        yield kit.option(f"role {role.name}", f"role:{role.name}")
    who = Who(agent.pk, user.pk if user else None)
    for server in sorted(_servers(snapshot), key=lambda one: one.slug):
        for listed in listed_tools(snapshot, who=who, server=server, at=at):
            if listed.requestable and (call or listed.requestable.arguments == "any"):
                name = visible(f"{server.slug}/{listed.tool.name}", limit=200)
                yield kit.option(name, f"tool:{listed.tool.id}", listed.tool.access)


def _servers(snapshot: Snapshot) -> list[Any]:
    return list(snapshot.servers.values())


def _chosen(values: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    ids, roles = [], []
    for value in values:
        kind, _, name = value.partition(":")
        try:
            if kind == "tool":
                ids.append(UUID(name))
            elif kind == "role":
                roles.append(name)
        except ValueError:
            continue
    tools = Tool.objects.filter(pk__in=ids).select_related("server")
    return [(tool.server.slug, tool.name) for tool in tools], roles
