"""Handing one's approvals to somebody else for a while. People only; agents have nothing to hand over."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Moment, Nothing, Text, body, query
from jitaccess.api.schema import documented, listing
from jitaccess.identity.services import user_by_name
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.delegations import concerning, delegate, end_delegation
from jitaccess.policy.models import Delegation
from jitaccess.store.clock import JitNow, now
from jitaccess.store.paging import part_of

_EXAMPLE = OpenApiExample(
    "A week off", value={"delegate": "bert", "ends_at": "2026-07-12T08:00:00Z", "note": "On leave."}, request_only=True
)


class DelegationQuery(Paged):
    over = serializers.BooleanField(required=False, help_text="Those that are over, or those that are not.")


class NewDelegation(Input):
    delegate = Text(required=False, max_length=150, help_text="A username; absent: you are away, and nobody is asked.")
    starts_at = Moment(required=False, help_text="Absent: now.")
    ends_at = Moment()
    note = Text(required=False, allow_blank=True, max_length=300)


class DelegationList(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET", "POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:
        if "delegation_id" in answer:
            _found(caller, UUID(answer["delegation_id"]))

    @documented(
        "delegations_list",
        "Delegations that you may see, latest first",
        "Those that you made or stand in by; all of them for whom the admin would show them to.",
        tag="requests",
        query=DelegationQuery,
        answer=listing(shapes.Delegation),
    )
    def get(self, request: Request) -> Response:
        asked, rows = query(request, DelegationQuery), _seen(caller_of(request))
        if "over" in asked:
            going = Delegation.objects.filter(ended_at=None, ends_at__gt=JitNow()).values("pk")
            rows = rows.exclude(pk__in=going) if asked["over"] else rows.filter(pk__in=going)
        part, at = part_of(rows, **place(asked)), now()
        return page(request, part, [_data(row, at) for row in part.rows])

    @documented(
        "delegations_create",
        "Hand over your approvals",
        "Yours only. Who stands in decides in your place, both names are on record; never on what they asked for "
        "themselves, and never further than to them.",
        tag="requests",
        takes=NewDelegation,
        answer=shapes.Delegation,
        status=201,
        keyed=True,
        examples=[_EXAMPLE],
    )
    @once
    def post(self, request: Request) -> Response:
        asked, caller = body(request, NewDelegation), caller_of(request)
        made = delegate(
            person=caller.decider(),
            to=user_by_name(asked["delegate"]) if "delegate" in asked else None,
            starts_at=asked.get("starts_at"),
            ends_at=asked["ends_at"],
            note=asked.get("note", ""),
            operator=caller.principal.actor(),
        )
        return Response(_data(made, now()), status=201)


class DelegationEnd(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that one
        _found(caller, self.kwargs["delegation_id"])

    @documented(
        "delegations_end",
        "End a delegation now",
        "By the person, whoever stands in for them, or a superuser.",
        tag="requests",
        takes=Nothing,
        answer=shapes.Delegation,
        keyed=True,
    )
    @once
    def post(self, request: Request, delegation_id: UUID) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        end_delegation(delegation=_found(caller, delegation_id), operator=caller.principal.actor())
        return Response(_data(_found(caller, delegation_id), now()))


def _seen(caller: Caller) -> QuerySet[Delegation]:
    if caller.may("jit_policy.view_delegation") or caller.may("jit_policy.change_delegation"):
        return Delegation.objects.select_related("person", "delegate")
    return concerning(caller.decider())


def _found(caller: Caller, delegation_id: UUID) -> Delegation:
    row = _seen(caller).filter(pk=delegation_id).first()
    if row is None:
        raise NotFound("delegation.unknown", "There is no such delegation, or you may not see it.")
    return row


def _data(row: Delegation, at: datetime) -> dict[str, Any]:
    return {
        "delegation_id": str(row.pk),
        "person": row.person.username,
        "delegate": row.delegate.username if row.delegate else None,
        "in_force": row.ended_at is None and row.starts_at <= at < row.ends_at,
        "starts_at": row.starts_at.isoformat(),
        "ends_at": row.ends_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
        "note": row.note,
        "made_by": row.made_by_name,
    }
