"""Principal: who acts, for whom, through which client. Nothing takes identity from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from jitaccess.audit.recorder import Actor, Row, actor_columns
from jitaccess.identity.models import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A User (agent None), an Agent (user None), or an Agent on behalf of a User.

    `issued_by` issued the credential used now: that person counts as the requester (self is one person).
    """

    agent: UUID | None = None
    agent_name: str = ""
    user: UUID | None = None
    user_name: str = ""
    client: str = ""
    source: str = ""
    token_hash: str = ""
    token_expires_at: datetime | None = None
    issued_by: UUID | None = None
    # Identifies who acts across tokens, clients and processes: grants and sessions belong to it. Worked out once, for
    # it is asked for many times in each request, and UUIDs are slow to write and to hash.
    key: str = field(default="", init=False, repr=False, compare=False)
    _columns: Row = field(default=(), init=False, repr=False, compare=False)
    _through: Principal | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.agent or '-'}/{self.user or '-'}")

    @property
    def label(self) -> str:
        if self.agent_name and self.user_name:
            return f"{self.agent_name} for {self.user_name}"
        return self.agent_name or self.user_name

    def actor(self) -> Actor:
        return Actor(
            agent=self.agent,
            agent_name=self.agent_name,
            user=self.user,
            user_name=self.user_name,
            client=self.client,
            source=self.source,
        )

    @property
    def columns(self) -> Row:
        """As the ledger has it: see `actor_columns`."""
        if not self._columns:
            object.__setattr__(self, "_columns", actor_columns(self.actor()))
        return self._columns

    def through(self, client: str) -> Principal:
        """The same, by way of this client, which nobody has checked; unless it is known by which."""
        if self.client or not client:
            return self
        if self._through is None or self._through.client != client:
            object.__setattr__(self, "_through", replace(self, client=client))
        assert self._through is not None
        return self._through

    @classmethod
    def of_user(cls, user: User, *, source: str = "", client: str = "web") -> Principal:
        """The signed-in person of a web request."""
        return cls(user=user.pk, user_name=user.username, source=source, client=client)
