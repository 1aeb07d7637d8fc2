"""Principal: who acts, for whom, through which client. Nothing takes identity from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from jitaccess.audit.recorder import Actor
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
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Identifies who acts across tokens, clients and processes: grants and sessions belong to it."""
        if not self._key:  # asked for many times in each request, and UUIDs are slow to write
            object.__setattr__(self, "_key", f"{self.agent or '-'}/{self.user or '-'}")
        return self._key

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

    @classmethod
    def of_user(cls, user: User, *, source: str = "", client: str = "web") -> Principal:
        """The signed-in person of a web request."""
        return cls(user=user.pk, user_name=user.username, source=source, client=client)
