"""Access that was approved."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.acting import holding
from jitaccess.api.asking import NewExtension, would_be
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Nothing, Text, body, query
from jitaccess.api.policy_now import look
from jitaccess.api.render import full_grant, given_by
from jitaccess.api.requests import submitted
from jitaccess.api.schema import documented, listing
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.services import uses_left_of
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of
from requests_app import represent, selectors
from requests_app.provisioning.service import provisions_of
from requests_app.selectors import Grant, Q
from requests_app.services import extend_grant, release_grant, revoke_grant


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
        live = asked["state"] == "live" if "state" in asked else None
        where = Q(agent__name=asked["agent"]) if "agent" in asked else Q()
        if person:
            part = selectors.page_of_grants(person, live=live, where=where, **place(asked))
        else:
            rows = selectors.grants_of(caller.principal).filter(where)
            part = part_of(rows if live is None else rows.filter(selectors.grants_live(live=live)), **place(asked))
        at, left, given = now(), uses_left_of([grant.pk for grant in part.rows]), given_by(part.rows)
        return page(request, part, [full_grant(caller, grant, at, left, given) for grant in part.rows])


class OfGrant(Endpoint):
    """An address about one grant: what was answered there is for whoever may see that grant."""

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that grant
        _found(caller, self.kwargs["grant_id"])


class GrantShow(Endpoint):
    @documented(
        "grants_show",
        "One grant",
        "As in the list, with the requests for more time, and for people what it gives on other systems.",
        tag="grants",
        answer=shapes.FullGrant,
    )
    def get(self, request: Request, grant_id: UUID) -> Response:
        return _answer(caller_of(request), grant_id)


class GrantRevoke(OfGrant):
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


class GrantRelease(OfGrant):
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


class GrantExtend(OfGrant):
    principal: Principal
    snapshot: Snapshot

    def prepare(self, request: Request) -> None:
        caller = caller_of(request)
        self.principal = holding(caller, _found(caller, self.kwargs["grant_id"]))
        self.snapshot, _ = look(self.principal)

    @documented(
        "grants_extend",
        "Ask for more time",
        "By the principal that holds it, or by a person whose agent it is. A request of its own, decided like any "
        "other; approving it moves the end of the grant, at most to `latest`. What the grant holds stays as it is.",
        tag="grants",
        takes=NewExtension,
        status=201,
        answer=shapes.Submitted,
        also={200: shapes.DryRun},
        keyed=True,
    )
    @once
    def post(self, request: Request, grant_id: UUID) -> Response:
        asked, caller = body(request, NewExtension), caller_of(request)
        dry = asked.get("dry_run", False)
        with transaction.atomic():
            filed = extend_grant(
                grant_id=grant_id,
                principal=self.principal,
                seconds=asked["minutes"] * 60,
                reason=asked["reason"],
                ticket=asked.get("ticket", ""),
                snapshot=self.snapshot,
                dry_run=dry,
                filed_by=caller.person,
            )
            return Response(would_be(filed)) if dry else Response(submitted(caller, filed), status=201)


def _found(caller: Caller, grant_id: UUID) -> Grant:
    """Raises NotFound for foreign grants as for absent ones."""
    person = caller.person
    rows = selectors.grants_seen_by(person) if person else selectors.grants_of(caller.principal)
    found = list(rows.filter(pk=grant_id))
    seen = selectors.seen_grants(person, found) if person else found
    if not seen:
        raise NotFound("grant.unknown", "There is no such grant, or you may not see it.")
    return seen[0]


def _answer(caller: Caller, grant_id: UUID) -> Response:
    """One grant with all about it. Raises NotFound as _found."""
    grant, at = _found(caller, grant_id), now()
    data: dict[str, Any] = full_grant(caller, grant, at, uses_left_of([grant_id]), given_by([grant]))
    data["extensions"] = [
        {
            "request_id": str(one.pk),
            "status": represent.status_at(one, at),
            "minutes": one.seconds // 60,
            "decided_by": one.closed_by_name,
        }
        for one in grant.extensions.order_by("pk")
    ]
    if caller.person:
        data["provisions"] = [
            {
                "target": one.target.slug,
                "entitlement": one.entitlement,
                "state": one.state,
                "changed_at": one.changed_at.isoformat(),
                "error": one.last_error,
                "gave_up": one.gave_up,
            }
            for one in provisions_of(grant_id)
        ]
    return Response(data)
