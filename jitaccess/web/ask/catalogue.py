"""What one principal may ask for, and what would come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.listing import listed_tools
from jitaccess.policy.engine.rules import Snapshot, Subject
from requests_app import represent, standing
from requests_app.asking import requestable_roles
from requests_app.card.card import SNAPSHOTS, Card, card_of
from requests_app.services import Ask, Submission, submit_bundle

SHOWN = 60


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing to ask for. `field` is "tool" or "role"; `exact`: with exact arguments only, so not by choosing it."""

    field: str
    name: str
    access: str
    description: str
    max_seconds: int | None
    max_uses: int | None
    decided_by: str
    exact: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was chosen first, then what fits the search; `more` fit besides, `calls` may be asked for exactly."""

    offers: tuple[Offer, ...]
    more: int
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What filing would bring about: a card for each request as its approvers would see it."""

    cards: tuple[Card, ...]
    pending: tuple[UUID, ...]
    max_seconds: int


def look(principal: Principal) -> tuple[Snapshot, datetime]:
    """Policy in force for this principal, and the database's clock. Not inside a transaction."""
    return SNAPSHOTS.look(Subject(agent=principal.agent, user=principal.user))


def catalogue_of(
    principal: Principal, snapshot: Snapshot, at: datetime, *, search: str, tools: Sequence[str], roles: Sequence[str]
) -> Catalogue:
    """`tools` and `roles` are what was chosen already: it stays in sight whatever is searched for."""
    assert principal.agent
    who, wanted = Who(principal.agent, principal.user), search.strip().lower()
    named = [
        (f"{server.slug}/{one.tool.name}", one)
        for server in sorted(snapshot.servers.values(), key=lambda server: server.slug)
        for one in listed_tools(snapshot, who=who, server=server, at=at)
    ]
    chosen: dict[tuple[str, str], Offer] = {("tool", name): _gone("tool", name) for name in tools}
    chosen |= {("role", name): _gone("role", name) for name in roles}
    found, calls = [], []
    askable = requestable_roles(snapshot, principal.agent)
    for field, data in (
        *(("role", one) for one in represent.requestable_roles_data(askable)),
        *(("tool", one) for one in represent.requestable_data(named)),
    ):
        offer = _offer(field, data, chosen)
        if offer.chosen:
            chosen[(field, offer.name)] = offer
        elif wanted in f"{offer.name} {offer.description}".lower():
            found.append(offer)
        if field == "tool":
            calls.append(offer.name)
    return Catalogue((*chosen.values(), *found[:SHOWN]), max(len(found) - SHOWN, 0), tuple(calls))


def outcome_of(user: User, principal: Principal, snapshot: Snapshot, ask: Ask) -> Outcome:
    """What `ask` would bring about; nothing of it stays. Raises what filing it would raise."""
    filed = submit_bundle(principal=principal, ask=ask, snapshot=snapshot, dry_run=True, filed_by=user)
    cards = [card_of(standing.as_if(one.request), None, channel="web") for one in filed if not one.coalesced]
    return Outcome(tuple(cards), tuple(_seen(user, filed)), min(one.max_seconds for one in filed))


def _seen(user: User, filed: Sequence[Submission]) -> list[UUID]:
    """Those that are pending already. Of one that is not theirs to see they learn no more than that it is."""
    same = [one.request for one in filed if one.coalesced]
    return [one.pk for one, place in zip(same, standing.standings_of(same, user), strict=True) if place.may_see]


def _offer(field: str, data: Any, chosen: dict[tuple[str, str], Offer]) -> Offer:
    name = str(data[field])
    return Offer(
        field=field,
        name=name,
        access=str(data.get("access", "")),
        description=str(data.get("description", "")),
        max_seconds=data["max_minutes"] * 60,
        max_uses=data.get("max_uses"),
        decided_by=", then ".join(data["decided_by"]),
        exact=data.get("arguments", "any") != "any",
        chosen=(field, name) in chosen,
    )


def _gone(field: str, name: str) -> Offer:
    """Chosen, and not to be asked for (any more): the dry run says why."""
    return Offer(field, name, "", "", None, None, "", exact=False, chosen=True)
