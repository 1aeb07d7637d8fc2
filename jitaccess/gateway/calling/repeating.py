"""An agent that makes the same call again and again goes round in circles: on record, and refused where the server's
options say so.
"""

from __future__ import annotations

import asyncio
import logging

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.limits import FLAGGED
from jitaccess.identity.principal import Principal
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Kind
from jitaccess.policy.engine.rules import ServerFacts

log = logging.getLogger(__name__)
REPEATED = "repeated"
_notes: set[asyncio.Task[None]] = set()


def too_often(
    gateway: Gateway, principal: Principal, target: Target, server: ServerFacts | None, args_digest: str
) -> bool:
    """Count this call, which policy seems to allow; whether its server wants it refused.

    Only tools: a resource is read again because it may have changed.
    """
    if target.kind is not Kind.TOOL or server is None:
        return False
    times, _ = gateway.limits.repeats.count(principal.key, server.id.int, target.tool, args_digest)
    if times in FLAGGED:
        task = asyncio.get_running_loop().create_task(_note(gateway, principal, target, args_digest, times))
        _notes.add(task)  # the loop itself holds tasks weakly only
        task.add_done_callback(_notes.discard)
    return 0 < server.options.repeat_limit < times


async def _note(gateway: Gateway, principal: Principal, target: Target, args_digest: str, times: int) -> None:
    facts = Facts(
        event=Event.CALL_REPEATED,
        actor=principal.actor(),
        server=target.server,
        server_name=target.server_name,
        tool=visible(target.tool, limit=128),
        data={"times": times, "args_digest": args_digest},
    )
    try:
        await gateway.db(_record, facts)
    except Exception as error:  # noqa: BLE001 - it is a flag: every call is on record by itself
        log.warning("a repeated call could not be flagged: %s", error)


def _record(facts: Facts) -> None:
    with transaction.atomic():
        record(facts)
