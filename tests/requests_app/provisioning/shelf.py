"""A target in memory whose behaviour tests can spoil. It passes the conformance kit itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from uuid import UUID

from requests_app.provisioning.protocol import Effect, Entitlement, Found, Permanent, Presence, Retryable, TargetFacts


class Shelf:
    """`heard` is every grant and revoke; `trouble` is raised instead; a lying one says yes and does nothing."""

    def __init__(self) -> None:
        self.there: dict[UUID, str] = {}
        self.foreign: list[str] = []
        self.heard: list[tuple[str, str]] = []
        self.trouble: Exception | None = None
        self.lying = False
        self.blind = False
        self.meanwhile: Callable[[], object] | None = None

    def of(self, facts: TargetFacts) -> Shelf:
        return self

    def describe(self) -> str:
        return "a shelf"

    def validate(self, entitlement: Entitlement) -> None:
        if entitlement.name == "role:forbidden":
            raise Permanent("Not on this shelf.")

    def grant(self, effect: Effect) -> None:
        self._touch("grant", effect)
        if not self.lying:
            self.there[effect.id] = effect.entitlement.name

    def revoke(self, effect: Effect) -> None:
        self._touch("revoke", effect)
        if not self.lying:
            self.there.pop(effect.id, None)

    def verify(self, effect: Effect) -> Presence:
        if self.trouble:
            raise self.trouble
        if self.blind:
            return Presence.UNKNOWN
        return Presence.PRESENT if effect.id in self.there else Presence.ABSENT

    def list(self) -> Iterator[Found]:
        if self.trouble:
            raise self.trouble
        yield from (Found(id=uid, name=name) for uid, name in self.there.items())
        yield from (Found(id=None, name=name) for name in self.foreign)

    def _touch(self, what: str, effect: Effect) -> None:
        if not effect.in_time:
            raise Retryable("Too late.")
        self.heard.append((what, effect.attempt))
        if self.meanwhile:
            self.meanwhile()
        if self.trouble:
            raise self.trouble

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.trouble = Retryable("It is down.")
        yield
        self.trouble = None
