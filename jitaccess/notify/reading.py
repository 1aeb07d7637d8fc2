"""Reading the ledger for those who have to be told: in its order, each entry once for each reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Entry, Leaf
from jitaccess.audit.sequencer import advance
from jitaccess.identity.models import User
from requests_app import reviews, selectors, standing
from requests_app.selectors import AccessRequest
from requests_app.services.remind import escalated_to

# So many places in the order of the ledger are passed over at once.
_FAR = 50_000


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the ledger at its place in it, with the request it is about."""

    seq: int
    entry: Entry
    event: str
    request: AccessRequest | None

    @property
    def grant(self) -> UUID | None:
        return self.entry.grant


@dataclass(frozen=True, slots=True)
class Batch:
    """What a reader had not read yet: how many entries it passed, and those of the events it is interested in."""

    read: int
    told: tuple[Told, ...]


@contextmanager
def reading(cursor: str, wanted: Callable[[str], bool], *, limit: int = 500) -> Iterator[Batch]:
    """The next entries for the reader of this name. What is written inside and how far it came commit together: an
    entry is told once, whenever a process dies. Nothing goes over the network in here.
    """
    seen = Cursor.objects.filter(name=cursor).values_list("seq", flat=True).first() or 0
    if not Leaf.objects.filter(seq__gt=seen).exists():
        yield Batch(0, ())  # an idle look takes no write lock, which on SQLite everybody else would wait for
        return
    with transaction.atomic():
        at, upto, found = _next(cursor, wanted, limit)
        requests = selectors.requests_by_id({leaf.entry.request for leaf in found if leaf.entry.request})
        yield Batch(
            upto - at.seq,
            tuple(
                Told(
                    leaf.seq,
                    leaf.entry,
                    leaf.entry.event,
                    requests.get(leaf.entry.request) if leaf.entry.request else None,
                )
                for leaf in found
            ),
        )
        advance(at, upto)


def _next(name: str, wanted: Callable[[str], bool], limit: int) -> tuple[Cursor, int, list[Leaf]]:
    """Where this reader is, how far it gets now, and what is for it on the way: the database leaves out the rest, for
    of ten thousand calls a second hardly anybody wants to hear.
    """
    Cursor.objects.get_or_create(name=name)
    at = Cursor.objects.select_for_update().get(name=name)
    newest = Leaf.objects.aggregate(newest=Max("seq"))["newest"]
    upto = min(newest, at.seq + _FAR)
    ours = Leaf.objects.filter(seq__gt=at.seq, seq__lte=upto, entry__event__in=list(filter(wanted, Event)))
    found = list(ours.select_related("entry").order_by("seq")[:limit])
    # What lies behind the last one of a full batch was not looked at.
    return at, found[-1].seq if len(found) == limit else max(upto, at.seq), found


def audience_of(told: Told) -> list[User]:
    """A new request: who can decide. A reminder: who of them has not. Break-glass: everybody who was skipped.

    The outcome: the agent's owner and the person it acts for, but not who did it.
    """
    entry, request = told.entry, told.request
    if request is None:
        return []
    match told.event:
        case Event.REQUEST_SUBMITTED:
            return standing.approvers_of(request) if request.pending else []
        case Event.REQUEST_REMINDED | Event.REQUEST_ESCALATED:
            return _undecided(entry, request) if request.pending else []
        case Event.BREAK_GLASS_USED:
            people = reviews.told_of(request)
        case _:
            people = [person for person in (request.agent.owner, request.user) if person and person.is_active]
    concerned = {person.pk: person for person in people}
    # An agent that acts for somebody carries that person's id: then it was not the person who did it.
    if entry.user and not entry.agent:
        concerned.pop(entry.user, None)
    return list(concerned.values())


def reviewers() -> list[User]:
    """Who may review tools."""
    who = User.objects.with_perm("jit_catalog.change_tool", backend="django.contrib.auth.backends.ModelBackend")
    return list(who.filter(is_staff=True))


def _undecided(entry: Entry, request: AccessRequest) -> list[User]:
    """Of those a reminder (all) or an escalation (its groups) goes to: who has not decided, and may."""
    done = {decision.user_id for decision in selectors.decisions_on(request) if decision.live}
    asked = [person for person in standing.approvers_of(request) if person.pk not in done]
    if entry.event == Event.REQUEST_REMINDED:
        return asked
    later = escalated_to(json.loads(entry.data)["groups"])
    return [person for person in asked if person.pk in later]
