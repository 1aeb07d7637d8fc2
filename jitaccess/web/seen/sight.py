"""What of the ledger one person may see: auditors all, others what is about their agents and requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q

from jitaccess.audit.models import Entry
from jitaccess.audit.search import Found, Kind, Sought, find
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.errors import NotFound
from jitaccess.store.paging import Part
from requests_app import selectors, standing
from requests_app.figures import concerning
from requests_app.selectors import AccessRequest

_NOTHING: Part[Entry] = Part([], newer=None, older=None)


@dataclass(frozen=True, slots=True)
class Sight:
    """`agents`: those they own, or their teams do; `hats`: every ref that means them. None: they see everything."""

    user: User
    agents: frozenset[UUID] | None
    hats: Collection[str]

    @property
    def whole(self) -> bool:
        return self.agents is None

    def find(self, sought: Sought, *, before: UUID | None = None, after: UUID | None = None, size: int = 50) -> Found:
        """A page of what was sought, as far as they may see it."""
        if self.agents is None:
            return find(sought, before=before, after=after, size=size)
        request = sought.request or (selectors.request_of_grant(sought.grant) if sought.grant else None)
        if request:
            # Of a request whoever may see it sees all, as on its page.
            known = self._may_see({request})
            return find(sought, before=before, after=after, size=size) if known else Found(_NOTHING)
        kinds = [Kind(Q(request__in=concerning(self.hats)), Q(selectors.concerns(self.hats, "request")))]
        if self.agents:
            kinds.insert(0, Kind(Q(agent__in=self.agents), Q(agent__in=self.agents)))
        found = find(sought, within=kinds, before=before, after=after, size=size)
        seen = self.seen(found.part.rows)
        return Found(Part(seen, newer=found.part.newer, older=found.part.older), found.looked_to)

    def request(self, request_id: UUID) -> AccessRequest | None:
        """A request they may see; None for an auditor who sees only what the ledger says of it. Raises NotFound."""
        try:
            return standing.seen_by(self.user, request_id)[0]
        except NotFound:
            if self.whole:
                return None
            raise

    def seen(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of these entries: standing has the last word on requests."""
        if self.agents is None:
            return list(entries)
        others = {entry.request for entry in entries if entry.request and entry.agent not in self.agents}
        known = self._may_see(others)
        return [entry for entry in entries if entry.agent in self.agents or entry.request in known]

    def one(self, uid: UUID) -> Entry:
        """Raises NotFound: a foreign entry answers like one that does not exist."""
        entry = Entry.objects.filter(pk=uid).first()
        if entry and (self.seen([entry]) or self._of_grant(entry)):
            return entry
        raise NotFound("entry.unknown", "There is no such entry, or it is not about anything of yours.")

    def _of_grant(self, entry: Entry) -> bool:
        """Whether it is about a use of what was given by a request that they may see."""
        request = selectors.request_of_grant(entry.grant) if entry.grant else None
        return bool(request and self._may_see({request}))

    def _may_see(self, ids: Collection[UUID]) -> set[UUID]:
        if not ids:
            return set()
        requests = list(selectors.requests_by_id(ids).values())
        standings = standing.standings_of(requests, self.user, hats=self.hats)
        return {request.pk for request, one in zip(requests, standings, strict=True) if one.may_see}


def sight_of(user: User) -> Sight:
    """For one request: what somebody may see changes."""
    if is_auditor(user):
        return Sight(user, None, ())
    agents = Agent.objects.filter(Q(owner=user) | Q(team__members=user)).values_list("pk", flat=True)
    return Sight(user, frozenset(agents), standing.hats_of(user))


def is_auditor(user: User) -> bool:
    """Who may view all of the ledger, as in the admin."""
    return bool(user.is_active and user.has_perm("jit_audit.view_entry"))
