"""Requests in lists, and those that belong to one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from requests_app.card.items import chips_of
from requests_app.card.status import Status, status_of
from requests_app.lifecycle import RequestKind
from requests_app.selectors import AccessRequest
from requests_app.standing import Seen

_KINDS = {RequestKind.EXTENSION: "more time", RequestKind.BREAK_GLASS: "break-glass"}


@dataclass(frozen=True, slots=True)
class Row:
    """A request in a list. `tools` are what it asks for (server, name, access each), without the last `more`.

    `together`: it was filed in one bundle with the row above.
    """

    request: AccessRequest
    status: Status
    kind: str
    tools: list[dict[str, str]]
    more: int
    together: bool = False


@dataclass(frozen=True, slots=True)
class Relative:
    """Another request that belongs to this one; `how` begins the sentence."""

    request: UUID
    how: str
    seconds: int
    status: Status
    tools: list[dict[str, str]]


def cards_of_rows(requests: Iterable[AccessRequest], at: datetime, *, shown: int = 4) -> list[Row]:
    """In their order, but those of one bundle at the place of its first. Asks the database nothing."""
    made: list[Row] = []
    for request in _bundled(requests):
        chips = chips_of(request)
        together = bool(request.bundle and made and made[-1].request.bundle == request.bundle)
        kind = _KINDS.get(RequestKind(request.kind), "")
        status = status_of(request, at)
        made.append(Row(request, status, kind, chips[:shown], max(len(chips) - shown, 0), together))
    return made


def relatives_of(seen: Seen) -> list[Relative]:
    """Those this reader may see, with how they belong to it."""
    request = seen.request
    found = []
    for one in seen.relatives:
        if one.pk == request.supersedes_id:
            how = "Takes the place of"
        elif one.supersedes_id == request.pk:
            how = "Replaced by"
        elif request.extends and one.pk == request.extends.request_id:
            how = "More time for what was given by"
        elif one.extends_id:
            how = "More time was asked for"
        else:
            how = "Filed together with"
        found.append(Relative(one.pk, how, one.seconds, status_of(one, seen.at), chips_of(one)))
    return found


def _bundled(requests: Iterable[AccessRequest]) -> Sequence[AccessRequest]:
    """A dict remembers where each bundle was first seen."""
    groups: dict[UUID, list[AccessRequest]] = {}
    for request in requests:
        groups.setdefault(request.bundle or request.pk, []).append(request)
    return [request for group in groups.values() for request in group]
