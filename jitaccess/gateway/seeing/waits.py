"""Who waits for a decision about a request: woken by it, not by asking for it again and again."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

# Of one principal in one process; one more is answered at once.
MAX_WAITS = 4


class Waits:
    """Those of one process, on its event loop. It looks once for all of them, when it is woken or each second."""

    def __init__(self) -> None:
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._mine: Counter[str] = Counter()

    def has_room(self, principal: str) -> bool:
        return self._mine[principal] < MAX_WAITS

    @contextmanager
    def one(self, principal: str, request: UUID) -> Iterator[asyncio.Event]:
        """What happens when the request is open no more."""
        decided = asyncio.Event()
        self._waiting[request].add(decided)
        self._mine[principal] += 1
        try:
            yield decided
        finally:
            self._mine[principal] -= 1
            if not self._mine[principal]:
                del self._mine[principal]
            self._waiting[request].discard(decided)
            if not self._waiting[request]:
                del self._waiting[request]

    def requests(self) -> list[UUID]:
        """What is waited for."""
        return list(self._waiting)

    def settle(self, asked: list[UUID], still_open: set[UUID]) -> None:
        """Somebody looked at those in `asked`, and these are still open."""
        for request in asked:
            if request not in still_open:
                for decided in self._waiting.get(request, ()):
                    decided.set()

    def end(self) -> None:
        """The process stops: nobody waits any longer."""
        self.settle(list(self._waiting), set())
