"""What is kept beside a call, so that another process can write the entry that this one may not live to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from jitaccess.audit.recorder import Actor
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.strictjson import Json


def remember(
    principal: Principal, *, server: UUID | None, server_name: str, tool: str, grant: UUID | None = None
) -> str:
    """Who called what, as JSON."""
    actor = principal.actor()
    value: Mapping[str, Json] = {
        "agent": _text(actor.agent),
        "agent_name": actor.agent_name,
        "user": _text(actor.user),
        "user_name": actor.user_name,
        "client": actor.client,
        "source": actor.source,
        "grant": _text(grant),
        "server": _text(server),
        "server_name": server_name,
        "tool": tool,
    }
    return canonical(dict(value)).decode()


def recall(text: str) -> dict[str, Any]:
    """What `remember` kept, as members of Facts."""
    value = strictjson.decode(text.encode())
    actor = Actor(
        agent=_uuid(value["agent"]),
        agent_name=str(value["agent_name"]),
        user=_uuid(value["user"]),
        user_name=str(value["user_name"]),
        client=str(value.get("client", "")),
        source=str(value.get("source", "")),
    )
    return {
        "actor": actor,
        "grant": _uuid(value["grant"]),
        "server": _uuid(value["server"]),
        "server_name": str(value["server_name"]),
        "tool": str(value["tool"]),
    }


def _text(value: UUID | None) -> str | None:
    return str(value) if value else None


def _uuid(value: Json) -> UUID | None:
    return UUID(value) if isinstance(value, str) else None
