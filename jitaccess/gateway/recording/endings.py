"""How calls ended: recorded once each, with what an end changes besides: uses given back, continuations kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from django.db import transaction

from jitaccess.audit.bundles import about_line, line, unbundle
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import (
    COLUMNS,
    INSERT_FRESH,
    Row,
    as_arrays,
    count_rows,
    row,
    write_rows,
)
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording import continuations
from jitaccess.gateway.recording.facts import TOOLS_CALL, Ending
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.steps import step
from jitaccess.policy.services import return_uses
from jitaccess.store import byhand

_TABLE = OpenCall._meta.db_table
# Entries of those calls only that are open, which they then are no more.
_END_AND_SAY = (
    f"WITH gone AS (DELETE FROM {_TABLE} WHERE call = ANY(${len(COLUMNS) + 1}::uuid[]) RETURNING call) "  # noqa: S608 - our own names
    f"{INSERT_FRESH} JOIN gone ON gone.call = fresh.call RETURNING call"
)
_CLOSE = f"DELETE FROM {_TABLE} WHERE call IN (SELECT value FROM json_each(?)) RETURNING call"  # noqa: S608


def write_endings(endings: Sequence[Ending], *, instance: UUID) -> None:
    """Record how calls ended, each once, in a transaction of their own."""
    with transaction.atomic():
        ends = Ends(endings, instance)
        with byhand.round_trip():
            ends.send()
        ends.settle()
    step("complete.committed")


def gives_back(ending: Ending) -> bool:
    """Whether a use that was taken is returned: nothing of the call was sent."""
    return ending.admitted.verdict.counted is not None and ending.unsent


def touches_uses(ending: Ending) -> bool:
    """Whether rows of uses are locked for it."""
    return gives_back(ending) or (ending.goes_on is not None and ending.goes_on.binding is not None)


class Ends:
    """The ends of calls in a transaction. Of a call that is not open any more the end is late: it was closed as
    unknown, for this process was believed dead. Unless nobody heard that an earlier try, or the call's own batch,
    succeeded.
    """

    def __init__(self, endings: Sequence[Ending], instance: UUID) -> None:
        # Of two ends of one call the first: it would otherwise be on record twice, and its use given back twice.
        first = {one.admitted.intent.call: one for one in reversed(endings)}
        self._endings, self._instance = list(first.values())[::-1], instance
        self._rows = [ending_row(one, instance) for one in self._endings]
        self._closed = byhand.Result()

    def __len__(self) -> int:
        return len(self._endings)

    def send(self) -> None:
        """Record those of open calls, in a `byhand.round_trip`."""
        if not self._endings:
            return
        calls = [one.admitted.intent.call.hex for one in self._endings]
        if not byhand.on_sqlite():
            self._closed = byhand.execute(_END_AND_SAY, (*as_arrays(self._rows), byhand.array(calls, quoted=False)))
            return
        self._closed = byhand.execute(_CLOSE, (json.dumps(calls),))
        closed = {call for (call,) in self._closed.rows}
        write_rows([row for row, call in zip(self._rows, calls, strict=True) if call in closed])

    def settle(self) -> None:
        """After that: the late ones, uses and continuations."""
        if not self._endings:
            return
        ended = list(self._endings)
        if self._closed.count != len(ended):
            closed = {UUID(call) for (call,) in self._closed.rows}
            ended = [one for one in ended if one.admitted.intent.call in closed]
            _record_late([one for one in self._endings if one.admitted.intent.call not in closed], self._instance)
        if not byhand.on_sqlite():
            count_rows(self._rows)
        _settle(ended)
        step("complete.written")


def _settle(endings: list[Ending]) -> None:
    """Give back uses that were not made, and keep what goes on."""
    on = [one.goes_on for one in endings if one.goes_on is not None]
    unused = Counter(one.admitted.verdict.counted for one in endings if gives_back(one))
    until = continuations.keep(on) if on else None
    open_until = {one.binding: until for one in on if one.binding is not None and until is not None}
    if unused or open_until:
        return_uses({binding: count for binding, count in unused.items() if binding}, open_until=open_until)


def _record_late(closed: list[Ending], instance: UUID) -> None:
    """Those of calls that are on record, but whose own end is not."""
    calls = [one.admitted.intent.call for one in closed]
    unbundle(calls)
    said = set(Entry.objects.filter(call__in=calls).values_list("call", "event"))
    # Closed as unknown is what can be corrected; any other end was heard before this one.
    open_ = {Event.CALL_AUTHORIZED.value, Event.CALL_OUTCOME_UNKNOWN.value}
    ended = {call for call, event in said if event not in open_}
    late = [
        one
        for one in closed
        if (one.admitted.intent.call, Event.CALL_AUTHORIZED) in said
        and one.admitted.intent.call not in ended
        and (one.admitted.intent.call, one.event) not in said
    ]
    write_rows([ending_row(one, instance, late=True) for one in late])


def ending_row(one: Ending, instance: UUID, *, late: bool = False) -> Row:
    """Its entry."""
    return row(
        event=Event.CALL_COMPLETED_LATE if late else one.event,
        outcome=one.outcome,
        about=one.admitted.about,
        instance=instance.hex,
        data=_data(one, late=late),
    )


def ending_line(one: Ending, instance: str) -> str:
    """The same in a bundle."""
    about = one.admitted.about_line or about_line(one.admitted.about)
    return line(event=one.event, outcome=one.outcome, about=about, instance=instance, data=_data(one))


def _data(one: Ending, *, late: bool = False) -> str:
    data = one.data
    if late or one.admitted.intent.method != TOOLS_CALL:
        data = data | one.admitted.intent.what_for | ({"ended_as": one.event.value} if late else {})
    return canonical(data).decode()
