"""What the same agent asked for before, and what became of it: how unusual a request is."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from django.db import connection

from jitaccess.kernel.once import once_each
from requests_app.models import AccessRequest


@once_each
def earlier_of(requests: frozenset[AccessRequest]) -> dict[AccessRequest, list[tuple[str, str]]]:
    """For each, what was asked for by the latest 1,000 of the same agent before it, and how each stands: one query.
    Django has no union of limited ones on SQLite.
    """
    if not requests:
        return {}
    parts, parameters, found = [], list[Any](), {one: list[tuple[str, str]]() for one in requests}
    for place, one in enumerate(found):
        rows = AccessRequest.objects.filter(agent=one.agent_id, created_at__lt=one.created_at).order_by("-created_at")
        statement, values = rows.values_list("items", "status")[:1000].query.sql_with_params()
        parts.append(f"SELECT {place} AS place, items, status FROM ({statement}) AS part")  # noqa: S608 - by Django
        parameters += values
    places = list(found.values())
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), parameters)
        for place, items, status in cursor.fetchall():
            places[place].append((items, status))
    return found


def history_of(request: AccessRequest) -> dict[UUID, Counter[str]]:
    """For each tool and role asked for: how earlier requests for it, of the latest 1,000 of the same agent, ended, by
    status.
    """
    roles = [item["role_id"] for item in request.parsed_items if item["kind"] == "role"]
    asked = [*(tool["id"] for tool in request.tools), *roles]
    if not asked:
        return {}
    counts: dict[UUID, Counter[str]] = {UUID(one): Counter() for one in asked}
    for items, status in earlier_of([request])[request]:
        for tool, ended in counts.items():
            if str(tool) in items:
                ended[status] += 1
    return counts
