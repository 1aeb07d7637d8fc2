"""Finding entries of the ledger, latest first, in a time that does not grow with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Concat

from jitaccess.audit.models import Entry
from jitaccess.store.paging import Part

# So many entries are looked through for what no index knows; then it is said how far that was.
WIDTH = 20_000
_FEW = 8  # kinds of events
# The keys of entries carry the clock of the host that wrote them, `at` that of the database.
_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What entries have to be; None, "" and () are anything. `given`: the grant of `request`, whose uses belong to it.

    `since` <= at < `until`.
    """

    agent: UUID | None = None
    user: UUID | None = None
    server: UUID | None = None
    tool: str = ""
    events: tuple[str, ...] = ()
    outcome: str = ""
    request: UUID | None = None
    given: UUID | None = None
    grant: UUID | None = None
    call: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Part of what was sought. `looked_to`: it was looked for up to there only, and `part` goes on from there."""

    part: Part[Entry]
    looked_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """Some entries: `all` by what an index gathers them, `each` as it is asked of one of them."""

    all: Q
    each: Q


def between(since: datetime | None, until: datetime | None) -> Q:
    """Entries of since <= at < until, by the key with a day's margin on either side: there is no index on `at`."""
    where = Q()
    if since:
        where &= Q(at__gte=since, uid__gte=_first_uid(since, -_MARGIN))
    if until:
        where &= Q(at__lt=until, uid__lt=_first_uid(until, _MARGIN))
    return where


def find(
    sought: Sought,
    *,
    within: Sequence[Kind] | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
) -> Found:
    """A page of them, before or after the entry with this key, or the latest. At most ten small queries.

    `within`: of these kinds only (None: of all), each of which an index knows; for whom not everything is to be seen.
    """
    streams, rest = _streams(sought)
    if within is None:
        return _page(streams, rest, before, after, size)
    seen = Q(pk__in=[])
    for kind in within:
        seen |= kind.each
    near = _page(streams, rest & seen, before, after, size)
    if near.looked_to is None or (rest and _page(streams, seen, before, after, size).looked_to is None):
        return near  # it is all there is, or many of the latest are theirs: it is looked for from there on
    # Few of the latest are theirs, so all of theirs are few.
    return _page([stream & kind.all for stream in streams for kind in within], rest, before, after, size)


def _streams(sought: Sought) -> tuple[list[Q], Q]:
    """What the best index knows, as one or more of its ranges, and what else there is to ask of each entry."""
    asked = {
        "grant": sought.grant,
        "call": sought.call,
        "agent": sought.agent,
        "user": sought.user,
        "server": sought.server,
        "tool": sought.tool,
        "outcome": sought.outcome,
    }
    rest = {name: value for name, value in asked.items() if value}
    event = Q(event_as_is__in=sought.events) if sought.events else Q()
    if sought.request:
        streams = [Q(request=sought.request), *([Q(grant=sought.given)] if sought.given else [])]
    elif known := next((name for name in ("call", "grant", "agent") if name in rest), ""):
        streams = [Q(**{known: rest.pop(known)})]
    elif sought.events:
        streams, event = [Q(event=one) for one in _present(sought.events)] or [Q(pk__in=[])], Q()
    else:
        streams = [Q()]
    time = between(sought.since, sought.until)
    return [stream & time for stream in streams], Q(**rest) & event


def _present(events: Sequence[str]) -> Sequence[str]:
    """Those of which there is an entry: of many kinds there never was one, and each costs its part of a query."""
    if len(events) <= _FEW:
        return events
    found = set(_of_each([Entry.objects.filter(event=one).order_by().values("event")[:1] for one in events], "event"))
    return [event for event in events if event in found]


def _page(streams: Sequence[Q], rest: Q, before: UUID | None, after: UUID | None, size: int) -> Found:
    order = "uid" if after else "-uid"
    ahead = Q(uid__gt=after) if after else Q(uid__lt=before) if before else Q()
    edge = None
    if rest:
        ends = _uids([_rows(stream & ahead, order)[WIDTH : WIDTH + 1] for stream in streams])
        edge = (min(ends) if after else max(ends)) if ends else None
    if edge:
        ahead &= Q(uid__lte=edge) if after else Q(uid__gte=edge)
    uids = sorted(_uids([_rows(stream & ahead & rest, order)[: size + 1] for stream in streams]), reverse=not after)
    more, uids = len(uids) > size, uids[:size]
    if more:
        edge = None  # the page is full before that
    entries = Entry.objects.in_bulk(uids)
    rows = sorted(entries.values(), key=lambda entry: entry.uid, reverse=True)
    first, last = (rows[0].uid, rows[-1].uid) if rows else (None, None)
    if after:
        part = Part(rows, newer=first if more else edge, older=last or after)
    else:
        part = Part(rows, newer=(first or before) if before else None, older=last if more else edge)
    return Found(part, _moment(edge) if edge else None)


def _rows(where: Q, order: str) -> QuerySet[Entry, Any]:
    # An expression is in no index: else the planner would gather all of an event beside a stream of a few thousand.
    rows = Entry.objects.alias(event_as_is=Concat(F("event"), Value("")))
    return rows.filter(where).order_by(order).values("uid")


def _uids(parts: Sequence[QuerySet[Entry, Any]]) -> set[UUID]:
    return {UUID(str(uid)) for uid in _of_each(parts, "uid")}


def _of_each(parts: Sequence[QuerySet[Entry, Any]], column: str) -> list[Any]:
    """The column of all of them, in one query. Django has no union of limited ones on SQLite."""
    statements, parameters = [], list[Any]()
    for part in parts:
        try:
            statement, values = part.query.sql_with_params()
        except EmptyResultSet:
            continue
        statements.append(f"SELECT {column} FROM ({statement}) AS part")  # noqa: S608 - compiled by Django
        parameters += values
    if not statements:
        return []
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(statements), parameters)
        return [value for (value,) in cursor.fetchall()]


def _first_uid(moment: datetime, margin: timedelta) -> UUID:
    """The least UUIDv7 of `margin` after that moment; years that no clock shows are the ends of time."""
    try:
        millis = int((moment + margin).timestamp() * 1000)
    except OverflowError:
        millis = 0 if margin < timedelta() else (1 << 48) - 1
    return UUID(int=min(max(millis, 0), (1 << 48) - 1) << 80)


def _moment(uid: UUID) -> datetime:
    return datetime.fromtimestamp((uid.int >> 80) / 1000, UTC)
