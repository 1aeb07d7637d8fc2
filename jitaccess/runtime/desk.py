"""The workflow as the operator of an installation reads it: everything, in the REST API's words."""

from __future__ import annotations

import getpass
import platform
from datetime import datetime
from typing import Any

from jitaccess.api.caller import Caller
from jitaccess.api.render import full_grant, full_request, given_by, listed_request, moment
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agent_by_name
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.services import uses_left_of
from jitaccess.runtime import references
from jitaccess.store.clock import now
from jitaccess.store.paging import Part, part_of
from requests_app import selectors
from requests_app.selectors import AccessRequest, Grant, State

# Nobody signed in: who has the database sees what people see, and is told of it as a person is.
_OPERATOR = Caller(Principal(user_name="operator"), User(username="operator"))


def system_user() -> str:
    """Who runs the command, as the system knows them."""
    return f"operator:{getpass.getuser()}@{platform.node()}"


def requests(*, state: str | None, agent: str | None, limit: int) -> tuple[list[JsonObject], bool, datetime]:
    """The latest of them, whether there are more, and when that was. Raises NotFound for an unknown agent."""
    rows = selectors.all_requests(State(state) if state else None)
    part: Part[AccessRequest] = part_of(rows.filter(agent=agent_by_name(agent)) if agent else rows, size=limit)
    left = uses_left_of([held.pk for row in part.rows if (held := getattr(row, "grant", None))])
    at = now()
    return [listed_request(row, at, left) for row in part.rows], part.older is not None, at


def grants(*, state: str | None, agent: str | None, limit: int) -> tuple[list[JsonObject], bool, datetime]:
    """As `requests`; `state` is live, ended or None for all."""
    rows = _grants()
    if state:
        rows = rows.filter(selectors.grants_live(live=state == "live"))
    if agent:
        rows = rows.filter(agent=agent_by_name(agent))
    part: Part[Grant] = part_of(rows, size=limit)
    at, left, given = now(), uses_left_of([held.pk for held in part.rows]), given_by(part.rows)
    return [full_grant(_OPERATOR, held, at, left, given) for held in part.rows], part.older is not None, at


def request_row(text: str) -> AccessRequest:
    """The request whose id is `text` or begins with it. Raises NotFound, Invalid."""
    return references.row_of(selectors.all_requests(), text, "request")


def request_data(row: AccessRequest, at: datetime) -> dict[str, Any]:
    """Everything about it but its timeline."""
    return full_request(_OPERATOR, row, None, at)


def request(text: str, *, calls: int) -> tuple[dict[str, Any], dict[str, Any], datetime]:
    """A request, its timeline, and when that was. Raises NotFound, Invalid."""
    row, at = request_row(text), now()
    entries = selectors.timeline_of(row, calls=calls)
    cut = sum(entry.event.startswith("call.") for entry in entries) == calls
    life = {"items": [told for entry in entries if (told := moment(_OPERATOR, entry))], "calls_cut": cut}
    return request_data(row, at), life, at


def grant(text: str) -> tuple[JsonObject, datetime]:
    """Raises NotFound, Invalid."""
    held, at = references.row_of(_grants(), text, "grant"), now()
    return full_grant(_OPERATOR, held, at, uses_left_of([held.pk]), given_by([held])), at


def agent_data(agent: Agent) -> JsonObject:
    """As the REST API's agents."""
    return {
        "agent_id": str(agent.pk),
        "name": agent.name,
        "description": agent.description,
        "owner": agent.owner.username,
        "team": agent.team.name,
        "enabled": agent.enabled,
        "created_at": agent.created_at.isoformat(),
    }


def _grants() -> Any:
    return Grant.objects.select_related("request__agent", "agent", "user")
