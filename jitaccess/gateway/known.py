"""Whose token it was a moment ago: a tool call need not ask, because its batch asks whether the token is good.

Everything else asks the database. What is remembered never lets anybody in; it only says in whose name to decide.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from jitaccess.identity.principal import Principal
from jitaccess.kernel.ids import token_hash
from jitaccess.store.host_clock import steady

# The names of agents and people that the ledger shows may be as old as this.
SECONDS = 60.0
MOST = 10_000


class KnownTokens:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._principals: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def __contains__(self, hashed: str) -> bool:
        return hashed in self._principals

    def find(self, token: str, *, source: str) -> Principal | None:
        """The principal of a token that was good within the last minute, as it comes from `source` now."""
        return self.of(token_hash(token), source=source)

    def of(self, hashed: str, *, source: str) -> Principal | None:
        """The same by the token's hash."""
        found = self._principals.get(hashed)
        if found is None or steady() - found[1] > SECONDS:
            return None
        return found[0] if found[0].source == source else replace(found[0], source=source)

    def remember(self, principal: Principal) -> None:
        """Call it with what the database just said."""
        self._principals[principal.token_hash] = (principal, steady())
        self._principals.move_to_end(principal.token_hash)
        if len(self._principals) > MOST:
            self._principals.popitem(last=False)

    def forget(self, hashed: str) -> None:
        self._principals.pop(hashed, None)
