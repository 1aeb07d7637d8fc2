"""Access tokens of agents: issued, listed without their values, and ended at once."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from rest_framework import serializers

from jitaccess.api import shape_parts, shapes
from jitaccess.api.agents import found_agent
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import never, once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Nothing, Text, Whole, body, query
from jitaccess.api.render import token_data
from jitaccess.api.schema import documented, listing
from jitaccess.identity import services
from jitaccess.identity.models import AccessToken
from jitaccess.kernel.errors import NotFound
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of


class TokenQuery(Paged):
    live = serializers.BooleanField(required=False, help_text="Those that are good now, or those that are not.")


class NewToken(Input):
    minutes = Whole(min_value=1, max_value=services.MAX_TOKEN_SECONDS // 60)
    on_behalf_of = Text(required=False, max_length=150, help_text="A username: the agent's owner, or one of its users.")


class AgentTokens(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET", "POST"})

    @documented(
        "agents_list_tokens",
        "Access tokens of an agent, latest first",
        "Never their values. For the agent's owner, and for whom the admin would show them to.",
        tag="agents",
        query=TokenQuery,
        answer=listing(shape_parts.AccessToken),
    )
    def get(self, request: Request, agent_id: UUID) -> Response:
        asked, caller = query(request, TokenQuery), caller_of(request)
        agent = found_agent(caller, agent_id)
        if caller.decider().pk != agent.owner_id:
            caller.insist_on_reading("jit_identity.accesstoken")
        rows = AccessToken.objects.filter(agent=agent).select_related("agent", "user")
        if "live" in asked:
            live = services.live_tokens().values("pk")
            rows = rows.filter(pk__in=live) if asked["live"] else rows.exclude(pk__in=live)
        part, at = part_of(rows, **place(asked)), now()
        return page(request, part, [token_data(token, at) for token in part.rows])

    @documented(
        "agents_issue_token",
        "Issue an access token",
        "The value is in this answer and nowhere else, so Idempotency-Key is refused here. Whoever issues a token "
        "counts as the requester of what is asked with it.",
        tag="agents",
        takes=NewToken,
        status=201,
        answer=shapes.Token,
    )
    @never
    def post(self, request: Request, agent_id: UUID) -> Response:
        asked, caller = body(request, NewToken), caller_of(request)
        caller.insist("jit_identity.add_accesstoken")
        agent = found_agent(caller, agent_id)
        user = services.user_by_name(asked["on_behalf_of"]) if "on_behalf_of" in asked else None
        value, token = services.issue_token(
            agent=agent, user=user, ttl=asked["minutes"] * 60, operator=caller.principal.actor(), client=""
        )
        return Response(
            {
                "token": value,
                "token_id": str(token.pk),
                "agent": agent.name,
                "on_behalf_of": user.username if user else None,
                "expires_at": token.expires_at.isoformat(),
            },
            status=201,
        )


class TokenRevoke(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that token
        _found(caller, **self.kwargs)

    @documented(
        "agents_revoke_token",
        "End an access token now",
        "Its next request is refused, and its streams end. For the agent's owner, whoever issued it, and whom the "
        "admin would let. Revoking twice is no error: the first time stands.",
        tag="agents",
        takes=Nothing,
        answer=shape_parts.AccessToken,
        keyed=True,
    )
    @once
    def post(self, request: Request, agent_id: UUID, token_id: UUID) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        token = _found(caller, agent_id, token_id)
        services.revoke_token(token=token, operator=caller.principal.actor())
        token.refresh_from_db()
        return Response(token_data(token, now()))


def _found(caller: Caller, agent_id: UUID, token_id: UUID) -> AccessToken:
    """One that this person may end. Raises Forbidden for others alike, whether there is such a token or not."""
    token = AccessToken.objects.select_related("agent", "user").filter(pk=token_id, agent=agent_id).first()
    if token is None or caller.decider().pk not in (token.agent.owner_id, token.issued_by_id):
        caller.insist("jit_identity.change_accesstoken")
    if token is None:
        raise NotFound("token.unknown", "This agent has no such token.")
    return token
