"""The ledger, for those to whom the admin would show it: it names everybody, so others see timelines only."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Endpoint, Request, Response, caller_of
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, query
from jitaccess.api.schema import documented, listing
from jitaccess.audit.models import Checkpoint, Entry
from jitaccess.audit.prove import prove_entry
from jitaccess.audit.search import between
from jitaccess.audit.sequencer import plain
from jitaccess.kernel.errors import NotFound
from jitaccess.store.paging import part_of
from jitaccess.store.reads import consistent_reads

_READERS = "jit_audit.entry"
_EXACT = ("event", "agent", "request", "grant", "call")


class EntryQuery(Paged):
    event = serializers.RegexField(r"^[a-z_]+\.[a-z_]+$", required=False, max_length=64)
    agent = serializers.UUIDField(required=False)
    request = serializers.UUIDField(required=False)
    grant = serializers.UUIDField(required=False)
    call = serializers.UUIDField(required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class CheckpointQuery(Input):
    limit = serializers.IntegerField(default=10, min_value=1, max_value=100)


class EntryList(Endpoint):
    @documented(
        "ledger_entries_list",
        "What happened, latest first",
        "For auditors: staff who may view entries in the admin. Nobody else sees any of it here.",
        tag="ledger",
        query=EntryQuery,
        answer=listing(shapes.Entry),
    )
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading(_READERS)
        asked = query(request, EntryQuery)
        rows = Entry.objects.filter(**{name: asked[name] for name in _EXACT if name in asked})
        rows = rows.filter(between(asked.get("since"), asked.get("until")))
        part = part_of(rows, **place(asked))
        return page(request, part, [_data(entry) for entry in part.rows])


class EntryShow(Endpoint):
    @documented("ledger_entries_show", "One entry", "For auditors.", tag="ledger", answer=shapes.Entry)
    def get(self, request: Request, uid: UUID) -> Response:
        caller_of(request).insist_on_reading(_READERS)
        entry = Entry.objects.filter(pk=uid).first()
        if entry is None:
            raise NotFound("entry.unknown", f"There is no entry {uid}.")
        return Response(_data(entry))


class EntryProof(Endpoint):
    @documented(
        "ledger_entries_proof",
        "That an entry is in what was signed last",
        "For auditors. An inclusion proof (RFC 9162 section 2.1.3); 409 when no checkpoint holds the entry yet.",
        tag="ledger",
        answer=shapes.Proof,
        conflicts=True,
    )
    def get(self, request: Request, uid: UUID) -> Response:
        caller_of(request).insist_on_reading(_READERS)
        with consistent_reads():
            return Response(prove_entry(uid))


class CheckpointList(Endpoint):
    @documented(
        "ledger_checkpoints_list",
        "The latest signed heads",
        "For auditors. Compare them with copies that left the database.",
        tag="ledger",
        query=CheckpointQuery,
        answer=shapes.Checkpoints,
    )
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading(_READERS)
        rows = Checkpoint.objects.all()[: query(request, CheckpointQuery)["limit"]]
        return Response({"items": [{"size": row.size, "at": row.at.isoformat(), "note": row.note} for row in rows]})


def _data(entry: Entry) -> dict[str, Any]:
    return {**plain(entry), "bindings": json.loads(entry.bindings), "data": json.loads(entry.data)}
