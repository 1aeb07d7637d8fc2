"""What a button carries: which request, as it was shown, and what was pressed. It names, and permits nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from jitaccess.kernel.errors import Invalid


class Verb(StrEnum):
    APPROVE = "approve"
    LESS = "less"
    DENY = "deny"
    CHANGES = "changes"
    EXTEND = "extend"


_SHAPE = re.compile(r"([0-9a-f-]{36})\|([0-9a-zA-Z:_-]{1,100})\|([a-z]{1,10})\|([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressed:
    """`card` is the message it stands on: what is pressed elsewhere, on a copy, counts for nothing."""

    request: UUID
    digest: str
    verb: Verb
    card: UUID

    def __str__(self) -> str:
        return f"{self.request}|{self.digest}|{self.verb}|{self.card}"

    @classmethod
    def read(cls, text: str) -> Pressed:
        """Raises Invalid("slack.value")."""
        found = _SHAPE.fullmatch(text)
        try:
            if found:
                request, digest, verb, card = found.groups()
                return cls(request=UUID(request), digest=digest, verb=Verb(verb), card=UUID(card))
        except ValueError:
            pass
        raise Invalid("slack.value", "This button is not one of jitaccess.")
