"""Locks: emergency stops. People only; who may lock what is for the service to say."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Nothing, Text, body, query
from jitaccess.api.schema import documented, listing
from jitaccess.kernel.errors import Forbidden, NotFound
from jitaccess.policy.locks import MAX_REASON, find_target, live_locks, lock, locks_seen_by, unlock
from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of

_EXAMPLE = OpenApiExample(
    "An agent, until somebody lifts it",
    value={"kind": "agent", "target": "release-bot", "reason": "It writes to the wrong repository."},
    request_only=True,
)


class LockQuery(Paged):
    live = serializers.BooleanField(required=False, help_text="Those in force now, or those that are over.")


class NewLock(Input):
    kind = serializers.ChoiceField(choices=Lock.Kind.values)
    target = Text(
        required=False,
        allow_blank=True,
        max_length=150,
        help_text="The name of an agent, user, server or role, or its id; the id of a grant; absent for everything.",
    )
    reason = Text(max_length=MAX_REASON)
    expires_at = serializers.DateTimeField(required=False, help_text="Absent: until somebody lifts it.")


class LockList(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET", "POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:
        if "lock_id" in answer:
            _found(caller, UUID(answer["lock_id"]))

    @documented(
        "locks_list",
        "Locks that you may see, latest first",
        "All of them for whom the admin would show them to; owners see those on their agents and their grants.",
        tag="policy",
        query=LockQuery,
        answer=listing(shapes.Lock),
    )
    def get(self, request: Request) -> Response:
        asked, caller = query(request, LockQuery), caller_of(request)
        rows = locks_seen_by(caller.decider())
        if "live" in asked:
            live = live_locks().values("pk")
            rows = rows.filter(pk__in=live) if asked["live"] else rows.exclude(pk__in=live)
        part, at = part_of(rows, **place(asked)), now()
        return page(request, part, [_data(row, at) for row in part.rows])

    @documented(
        "locks_create",
        "Stop something now",
        "An agent, a user, a server, a role, a grant, or everything: refused from the next call on, whatever anybody "
        "has. For staff with the permission jit_policy.add_lock; owners may lock their agents and their grants. A "
        "second equal lock gets 409 with the first one's id.",
        tag="policy",
        takes=NewLock,
        answer=shapes.Lock,
        status=201,
        keyed=True,
        examples=[_EXAMPLE],
    )
    @once
    def post(self, request: Request) -> Response:
        asked, caller = body(request, NewLock), caller_of(request)
        made = lock(
            kind=asked["kind"],
            target=_target(caller, asked["kind"], asked.get("target", "")),
            reason=asked["reason"],
            expires_at=asked.get("expires_at"),
            operator=caller.principal.actor(),
        )
        return Response(_data(made, now()), status=201)


class LockLift(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that lock
        _found(caller, self.kwargs["lock_id"])

    @documented(
        "locks_lift",
        "Lift a lock",
        "For staff with the permission jit_policy.change_lock; owners may lift what they made themselves.",
        tag="policy",
        takes=Nothing,
        answer=shapes.Lock,
        keyed=True,
    )
    @once
    def post(self, request: Request, lock_id: UUID) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        return Response(_data(unlock(lock=_found(caller, lock_id), operator=caller.principal.actor()), now()))


def _found(caller: Caller, lock_id: UUID) -> Lock:
    row = locks_seen_by(caller.decider()).filter(pk=lock_id).first()
    if row is None:
        raise NotFound("lock.unknown", "There is no such lock, or you may not see it.")
    return row


def _target(caller: Caller, kind: str, text: str) -> UUID | None:
    """Whoever may not lock it learns no more than that: not whether there is such a thing."""
    try:
        return find_target(kind, text)
    except NotFound:
        if caller.may("jit_policy.add_lock"):
            raise
        raise Forbidden("lock.not_yours", "This needs the permission jit_policy.add_lock.") from None


def _data(row: Lock, at: Any) -> dict[str, Any]:
    live = row.lifted_at is None and (row.expires_at is None or row.expires_at > at)
    return {
        "lock_id": str(row.pk),
        "kind": row.kind,
        "target": str(row.target) if row.target else None,
        "name": row.target_name,
        "live": live,
        "reason": row.reason,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by_name,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "lifted_at": row.lifted_at.isoformat() if row.lifted_at else None,
        "lifted_by": row.lifted_by_name,
    }
