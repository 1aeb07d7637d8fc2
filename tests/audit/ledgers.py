"""A real ledger of some length; the fixture `ledger` makes it."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

from django.db import connection, transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Leaf
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence

SIZE = 600
Run = Callable[..., tuple[int, list[str]]]


def grow(count: int) -> None:
    uid = uuid4()
    actor = Actor(agent=uid, agent_name="demo-agent", user=uid, user_name="olga", client="tests", source="127.0.0.1")
    with transaction.atomic():
        record_many(
            Facts(
                event=Event.CALL_AUTHORIZED,
                actor=actor,
                request=uid,
                grant=uid,
                call=uid,
                server=uid,
                server_name="git",
                tool="git_add",
                tool_pin="sha256:00",
                bindings=[uid],
                policy_version=3,
                instance=uid,
                data={"number": number},
            )
            for number in range(count)
        )
    while sequence():
        pass
    if connection.vendor == "postgresql":
        # Autovacuum counts rows that are not committed as none, and plans for none can take minutes.
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jit_audit_entry, jit_audit_leaf, jit_audit_node")


def place(seq: int) -> UUID:
    return Leaf.objects.get(seq=seq).entry_id
