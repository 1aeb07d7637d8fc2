"""Access that was approved."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Nothing, Text, body, query
from jitaccess.api.render import full_grant
from jitaccess.api.schema import documented, listing
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.services import uses_left_of
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of
from requests_app import selectors
from requests_app.services import release_grant, revoke_grant


class GrantQuery(Paged):
    state = serializers.ChoiceField(choices=["live", "ended"], required=False)
    agent = serializers.CharField(required=False, max_length=40, help_text="An agent's name.")


class Revocation(Input):
    note = Text(required=False, allow_blank=True, max_length=2000, help_text="Why; kept on record.")


class GrantList(Endpoint):
    @documented(
        "grants_list",
        "Grants that you may see, latest first",
        "People see those of the requests they see; an agent sees exactly its own principal's.",
        tag="grants",
        query=GrantQuery,
        answer=listing(shapes.FullGrant),
    )
    def get(self, request: Request) -> Response:
        asked, caller = query(request, GrantQuery), caller_of(request)
        person = caller.person
        rows = selectors.grants_seen_by(person) if person else selectors.grants_of(caller.principal)
        if "state" in asked:
            rows = rows.filter(selectors.grants_live(live=asked["state"] == "live"))
        if "agent" in asked:
            rows = rows.filter(agent__name=asked["agent"])
        part = part_of(rows, **place(asked))
        seen = selectors.seen_grants(person, part.rows) if person else part.rows
        at, left = now(), uses_left_of([grant.pk for grant in seen])
        return page(request, part, [full_grant(caller, grant, at, left) for grant in seen])


class GrantShow(Endpoint):
    @documented("grants_show", "One grant", "As in the list.", tag="grants", answer=shapes.FullGrant)
    def get(self, request: Request, grant_id: UUID) -> Response:
        return _answer(caller_of(request), grant_id)


class GrantRevoke(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    @documented(
        "grants_revoke",
        "Take access away, now",
        "For the agent's owner, its approvers and superusers; less access needs no quorum. The next call is refused.",
        tag="grants",
        takes=Revocation,
        answer=shapes.FullGrant,
        keyed=True,
    )
    @once
    def post(self, request: Request, grant_id: UUID) -> Response:
        asked, caller = body(request, Revocation), caller_of(request)
        revoke_grant(
            grant_id=grant_id, user=caller.decider(), note=asked.get("note", ""), source=caller.principal.source
        )
        return _answer(caller, grant_id)


class GrantRelease(Endpoint):
    @documented(
        "grants_release",
        "Give access back",
        "By the principal that holds it.",
        tag="grants",
        takes=Nothing,
        answer=shapes.FullGrant,
        keyed=True,
    )
    @once
    def post(self, request: Request, grant_id: UUID) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        release_grant(grant_id=grant_id, principal=caller.principal)
        return _answer(caller, grant_id)


def _answer(caller: Caller, grant_id: UUID) -> Response:
    """Raises NotFound for foreign grants as for absent ones."""
    person = caller.person
    rows = selectors.grants_seen_by(person) if person else selectors.grants_of(caller.principal)
    found = list(rows.filter(pk=grant_id))
    seen = selectors.seen_grants(person, found) if person else found
    if not seen:
        raise NotFound("grant.unknown", "There is no such grant, or you may not see it.")
    return Response(full_grant(caller, seen[0], now(), uses_left_of([grant_id])))
