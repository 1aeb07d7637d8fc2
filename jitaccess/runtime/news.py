"""What the ledger says of late, and for whom it is news: read for the open pages of one process, in a thread.

The only thing that is told is which topics something happened to. Who may hear of it is asked of the database when it
happens: who is signed in, and who may see the request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from django.db.models import Max, Min

from jitaccess.audit.models import Leaf
from jitaccess.identity.models import Agent, User
from jitaccess.identity.proof import without_required_factor
from jitaccess.identity.required import DETAIL, MISSING
from jitaccess.identity.sessions import people_of_cookies, person_of_cookie
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.store.clock import now
from requests_app.seers import seers_of
from requests_app.standing import seen_by

INBOX, GRANTS, ACTIVITY, REQUEST = "inbox", "grants", "activity", "request:"
MOST_TOPICS = 8
# A page is told of what happened since it was made, if that is not longer ago.
FRESH = timedelta(seconds=10)
FRESH_ENTRIES = 200
# With more than this to look at, everybody looks for themselves.
MANY_ENTRIES = 20_000
MANY_REQUESTS = 1000


class SignedOut(Forbidden):
    """No session that has not ended."""

    http_status = 401


@dataclass(eq=False, slots=True)
class Listener:
    """An open page: whose session it is, what it shows, and whether they see all requests, and all of the ledger."""

    cookie: str = field(repr=False)
    person: UUID
    topics: frozenset[str]
    superuser: bool = False
    auditor: bool = False

    def learn(self, person: User) -> None:
        self.superuser = person.is_superuser
        self.auditor = ACTIVITY in self.topics and person.has_perm("jit_audit.view_entry")


@dataclass(frozen=True, slots=True)
class News:
    """What happened up to a place in the ledger: by topic, whom it concerns. `everything`: too much to tell apart."""

    upto: int
    who: Mapping[str, Collection[UUID]] = field(default_factory=dict)
    everything: bool = False

    def of_interest(self, listener: Listener) -> set[str]:
        if self.everything:
            return set(listener.topics)
        return {
            topic
            for topic in listener.topics & self.who.keys()
            if listener.superuser or listener.person in self.who[topic] or (topic == ACTIVITY and listener.auditor)
        }


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: up to where, what to tell whom, and whose session has ended."""

    upto: int
    told: Mapping[Listener, set[str]]
    gone: frozenset[Listener]


def topics_of(text: str) -> frozenset[str]:
    """Those of a list with commas: inbox, grants, activity, request:<uuid>. Raises Invalid."""
    topics = frozenset(text.split(","))
    if len(topics) > MOST_TOPICS or not all(topic in (INBOX, GRANTS, ACTIVITY) or _request(topic) for topic in topics):
        raise Invalid("live.topics", f"At most {MOST_TOPICS} of inbox, grants, activity and request:<id>.")
    return topics


def _request(topic: str) -> UUID | None:
    """The request that a topic is about, if it is spelled as we spell it."""
    try:
        found = UUID(topic.removeprefix(REQUEST))
    except ValueError:
        return None
    return found if topic == f"{REQUEST}{found}" else None


def listener_of(cookie: str, topics: frozenset[str]) -> Listener:
    """Somebody who is signed in and may see all of it. Raises SignedOut, NotFound, and Forbidden as pages do for who
    lacks a second factor.
    """
    person = person_of_cookie(cookie)
    if person is None:
        raise SignedOut("live.signed_out", "Sign in to be told of changes.")
    if without_required_factor([person]):
        raise Forbidden(MISSING, DETAIL)
    for request in filter(None, map(_request, topics)):
        seen_by(person, request)
    listener = Listener(cookie, person.pk, topics)
    listener.learn(person)
    return listener


def look(seen: int, listeners: Collection[Listener], fresh: Collection[Listener], due: Iterable[Listener]) -> Look:
    """What to tell `listeners`, who know all up to `seen`, and `fresh` ones, whose pages are some seconds old.

    Whether they are still signed in is asked now, of those there is something to tell, and of those whose turn it is
    (`due`).
    """
    newest = _newest()
    told: list[tuple[News, Collection[Listener]]] = []
    for since, some in ((seen, listeners), (_before_fresh(newest) if fresh else 0, fresh)):
        if some:
            told.append((news_since(since, newest, frozenset[str]().union(*(one.topics for one in some))), some))
    concerned = {one for news, some in told for one in some if news.of_interest(one)} | set(due)
    people = people_of_cookies({one.cookie for one in concerned}) if concerned else {}
    lacking = without_required_factor(people.values())
    gone = set()
    for one in concerned:
        person = people.get(one.cookie)
        if person is None or person.pk != one.person or person.pk in lacking:
            gone.add(one)
        else:
            one.learn(person)
    still = ((one, news.of_interest(one)) for news, some in told for one in some if one not in gone)
    found = {one: topics for one, topics in still if topics}
    return Look(newest, found, frozenset(gone))


def news_since(seen: int, newest: int, wanted: frozenset[str]) -> News:
    """What of `wanted` topics happened in the entries after `seen`, up to `newest`."""
    if newest <= seen:
        return News(newest)
    if newest - seen > MANY_ENTRIES:
        return News(newest, everything=True)
    rows = Leaf.objects.filter(seq__gt=seen, seq__lte=newest).order_by()
    topics: dict[UUID, set[str]] = {}
    agents: set[UUID] = set()
    for event, request, agent in rows.values_list("entry__event", "entry__request", "entry__agent").distinct():
        if agent:
            agents.add(agent)
        if request and (happened := _topics(event, request) & wanted):
            topics.setdefault(request, set()).update(happened)
    if len(topics) > MANY_REQUESTS:
        return News(newest, everything=True)
    who: defaultdict[str, set[UUID]] = defaultdict(set)
    if ACTIVITY in wanted:
        who[ACTIVITY] = _people_of(agents)
    for request, people in seers_of(topics.keys()).items() if topics else ():
        for topic in topics[request]:
            who[topic] |= people
    return News(newest, who)


def _topics(event: str, request: UUID) -> set[str]:
    """Calls move nothing in lists of requests and grants, and there are thousands of them."""
    found = {f"{REQUEST}{request}"}
    if not event.startswith("call."):
        found |= {INBOX, ACTIVITY}
    if event.startswith("grant."):
        found.add(GRANTS)
    return found


def _people_of(agents: Collection[UUID]) -> set[UUID]:
    """Their owners, and who is in their teams: they see what their agents do."""
    rows = Agent.objects.filter(pk__in=agents).values_list("owner", "team__members") if agents else ()
    return {person for row in rows for person in row if person}


def _newest() -> int:
    return Leaf.objects.aggregate(newest=Max("seq"))["newest"] or 0


def _before_fresh(newest: int) -> int:
    """The place before the first entry that is younger than FRESH; if there are many, one too far back to look at."""
    latest = Leaf.objects.filter(seq__gt=newest - FRESH_ENTRIES, entry__at__gt=now() - FRESH)
    first = latest.aggregate(first=Min("seq"))["first"]
    if first is None:
        return newest
    return newest - MANY_ENTRIES - 1 if first == newest - FRESH_ENTRIES + 1 else int(first) - 1
