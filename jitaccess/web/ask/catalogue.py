"""What one principal may ask for, and what would come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.listing import listed_tools
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.models import ApprovalPolicy
from requests_app import represent, standing
from requests_app.asking import requestable_roles
from requests_app.card.card import SNAPSHOTS, Card, card_of
from requests_app.inputs import Field, fields_of
from requests_app.services import Ask, Submission, submit_bundle

SHOWN = 60


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing to ask for. `field` is "tool" or "role"; `exact`: with exact arguments only, so not by choosing it;
    `limited`: only with a schema that limits its arguments.
    """

    field: str
    name: str
    access: str
    description: str
    max_seconds: int | None
    max_uses: int | None
    decided_by: str
    exact: bool
    limited: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Database:
    """Privileges that may be asked for on objects of a database, by name or pattern."""

    name: str
    objects: tuple[str, ...]
    privileges: tuple[str, ...]
    max_seconds: int
    decided_by: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was chosen first, then what fits the search; `more` fit besides, `calls` may be asked for exactly. `fields`
    are those of the tool that is to be called, None where its arguments are written as JSON.
    """

    offers: tuple[Offer, ...]
    more: int
    calls: tuple[str, ...]
    databases: tuple[Database, ...]
    fields: tuple[Field, ...] | None

    @property
    def privileges(self) -> list[str]:
        return sorted({one for database in self.databases for one in database.privileges})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What filing would bring about: a card for each request as its approvers would see it."""

    cards: tuple[Card, ...]
    pending: tuple[UUID, ...]
    max_seconds: int

    @property
    def auto(self) -> bool:
        """Whether a rule would approve all of it, so that nobody is asked."""
        return bool(self.cards) and all(card.progress.auto for card in self.cards)


def look(principal: Principal) -> tuple[Snapshot, datetime]:
    """Policy in force for this principal, and the database's clock. Not inside a transaction."""
    return SNAPSHOTS.look(Subject(agent=principal.agent, user=principal.user))


def catalogue_of(
    principal: Principal,
    snapshot: Snapshot,
    at: datetime,
    *,
    search: str,
    tools: Sequence[str],
    roles: Sequence[str],
    call: str = "",
) -> Catalogue:
    """`tools` and `roles` are what was chosen already: it stays in sight whatever is searched for. `call`: the tool
    that is to be called once.
    """
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
    return Catalogue(
        (*chosen.values(), *found[:SHOWN]),
        max(len(found) - SHOWN, 0),
        tuple(calls),
        tuple(_databases(snapshot, principal.agent)),
        call_fields(principal, snapshot, at, call),
    )


def call_fields(principal: Principal, snapshot: Snapshot, at: datetime, name: str) -> tuple[Field, ...] | None:
    """Those of one tool (server/tool) that this principal may know about; None for any other, and where its arguments
    are written as JSON.
    """
    assert principal.agent
    slug, _, tool = name.strip().partition("/")
    server = snapshot.server_by_slug(slug)
    if server is None:
        return None
    listed = listed_tools(snapshot, who=Who(principal.agent, principal.user), server=server, at=at)
    return next((fields_of(one.tool.definition) for one in listed if one.tool.name == tool), None)


def _databases(snapshot: Snapshot, agent: UUID) -> Iterator[Database]:
    facts = snapshot.agents.get(agent)
    if facts is None or not facts.enabled:
        return
    rows = [one for one in snapshot.requestables if one.database and one.team in (None, facts.team)]
    policies = ApprovalPolicy.objects.in_bulk({one.policy for one in rows}) if rows else {}
    for one in sorted(rows, key=lambda row: (row.database, row.objects.sources)):
        if one.policy in policies:
            decided_by = ", then ".join(map(str, represent.decided_by(policies[one.policy])))
            privileges = tuple(sorted(one.privileges))
            yield Database(one.database, one.objects.sources, privileges, one.max_seconds, decided_by)


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
        exact=data.get("arguments") == "exact",
        limited=data.get("arguments") == "schema",
        chosen=(field, name) in chosen,
    )


def _gone(field: str, name: str) -> Offer:
    """Chosen, and not to be asked for (any more): the dry run says why."""
    return Offer(field, name, "", "", None, None, "", exact=False, limited=False, chosen=True)
