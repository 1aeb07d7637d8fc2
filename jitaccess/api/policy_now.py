"""Policy as this process has it, brought up to date at each look."""

from __future__ import annotations

from datetime import datetime

from jitaccess.identity.principal import Principal
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.snapshots import SnapshotStore

STORE = SnapshotStore()


def look(principal: Principal) -> tuple[Snapshot, datetime]:
    """The Snapshot in force and the database's clock. Not inside a transaction: it has to see one state throughout."""
    return STORE.look(Subject(agent=principal.agent, user=principal.user))
