"""Who asks. Changing them needs what the admin asks for."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Q, QuerySet
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Nothing, body, query
from jitaccess.api.schema import documented, listing
from jitaccess.identity import services
from jitaccess.identity.models import Agent
from jitaccess.kernel.errors import NotFound
from jitaccess.store.paging import part_of


class AgentQuery(Paged):
    enabled = serializers.BooleanField(required=False)


class AgentList(Endpoint):
    @documented(
        "agents_list",
        "Agents that you may see",
        "All of them for whom the admin would show them to; the others see those they own or may use. An agent's "
        "token sees its own.",
        tag="agents",
        query=AgentQuery,
        answer=listing(shapes.Agent),
    )
    def get(self, request: Request) -> Response:
        asked = query(request, AgentQuery)
        rows = _seen(caller_of(request))
        if "enabled" in asked:
            rows = rows.filter(enabled=asked["enabled"])
        part = part_of(rows, **place(asked))
        return page(request, part, [_data(agent) for agent in part.rows])


class AgentShow(Endpoint):
    @documented("agents_show", "One agent", "As in the list.", tag="agents", answer=shapes.Agent)
    def get(self, request: Request, agent_id: UUID) -> Response:
        return Response(_data(found_agent(caller_of(request), agent_id)))


class _Switch(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that agent
        caller.insist("jit_identity.change_agent")

    def switch(self, request: Request, agent_id: UUID, *, enabled: bool) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        caller.insist("jit_identity.change_agent")
        agent = found_agent(caller, agent_id)
        services.set_agent_enabled(agent=agent, enabled=enabled, operator=caller.principal.actor())
        return Response(_data(agent))


class AgentEnable(_Switch):
    @documented(
        "agents_enable",
        "Enable an agent",
        "Its grants that ended meanwhile do not come back.",
        tag="agents",
        takes=Nothing,
        answer=shapes.Agent,
        keyed=True,
    )
    @once
    def post(self, request: Request, agent_id: UUID) -> Response:
        return self.switch(request, agent_id, enabled=True)


class AgentDisable(_Switch):
    @documented(
        "agents_disable",
        "Disable an agent",
        "Its next call is refused, and its grants end.",
        tag="agents",
        takes=Nothing,
        answer=shapes.Agent,
        keyed=True,
    )
    @once
    def post(self, request: Request, agent_id: UUID) -> Response:
        return self.switch(request, agent_id, enabled=False)


def _seen(caller: Caller) -> QuerySet[Agent]:
    rows = Agent.objects.select_related("owner", "team")
    if caller.may("jit_identity.view_agent") or caller.may("jit_identity.change_agent"):
        return rows
    if caller.person is None:
        return rows.filter(pk__in=[caller.principal.agent])
    usable = Agent.users.through.objects.filter(user_id=caller.person.pk).values("agent_id")
    return rows.filter(Q(owner=caller.person) | Q(pk__in=usable))


def found_agent(caller: Caller, agent_id: UUID) -> Agent:
    """Raises NotFound for those that may not be seen as for absent ones."""
    agent = _seen(caller).filter(pk=agent_id).first()
    if agent is None:
        raise NotFound("agent.unknown", "There is no such agent, or you may not see it.")
    return agent


def _data(agent: Agent) -> dict[str, Any]:
    return {
        "agent_id": str(agent.pk),
        "name": agent.name,
        "description": agent.description,
        "owner": agent.owner.username,
        "team": agent.team.name,
        "enabled": agent.enabled,
        "created_at": agent.created_at.isoformat(),
    }
