"""Who may see requests, asked the other way round: not what one person sees, but who of all people sees them."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from jitaccess.policy.delegations import standins_for
from jitaccess.policy.people import members_of
from requests_app.models import AccessRequest, Decision
from requests_app.standing import plan_of, self_of


def seers_of(ids: Collection[UUID]) -> dict[UUID, frozenset[UUID]]:
    """By request, the people whose standing says `may_see`, but for superusers, who see all. As many queries for a
    hundred as for one, however many people there are; those who are not active any more may be among them.
    """
    requests = list(AccessRequest.objects.filter(pk__in=ids).select_related("agent", "extends__request"))
    plans = {request.pk: plan_of(request) for request in requests}
    refs = {
        request.pk: {f"team:{request.agent.team_id}", *(plan.refs() if (plan := plans[request.pk]) else ())}
        for request in requests
    }
    members = members_of({ref for some in refs.values() for ref in some})
    standins = standins_for(person for people in members.values() for person in people).acting
    decided: dict[UUID, set[UUID]] = {request.pk: set(self_of(request)) for request in requests}
    for request_id, person in Decision.objects.filter(request__in=ids).values_list("request", "user"):
        decided[request_id].add(person)
    found = {}
    for request in requests:
        asked = frozenset[UUID]().union(*(members[ref] for ref in refs[request.pk]))
        instead = {delegate for delegate, persons in standins.items() if persons & asked}
        found[request.pk] = asked | instead | decided[request.pk]
    return found
