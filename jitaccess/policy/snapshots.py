"""Keeping a process's Snapshot current: by what the triggers say has changed, or from everything."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.once import once
from jitaccess.policy.compiler import (
    HEAD,
    REMEMBERED,
    Head,
    Stopped,
    agents,
    compile_snapshot,
    head,
    head_of,
    locks,
    read_bindings,
    requestable_roles,
    requestables,
    servers,
    teams,
    users,
)
from jitaccess.policy.engine.rules import BindingFacts, Snapshot, Subject
from jitaccess.policy.models import BindingUse, PolicyChange, RoleBinding, ServerAccess
from jitaccess.store import byhand
from jitaccess.store.host_clock import steady
from jitaccess.store.metrics import SNAPSHOT_SECONDS
from jitaccess.store.reads import consistent_reads, in_transaction

Facts = TypeVar("Facts")
# From here on reading everything is cheaper than reading what changed.
MANY_CHANGES = 2000
_CHANGES = (
    f"SELECT version, stamp, kind, key FROM {PolicyChange._meta.db_table} "  # noqa: S608 - names of our own
    f"WHERE version >= {'?' if byhand.on_sqlite() else '$1::bigint'} LIMIT {MANY_CHANGES + 1}"
)


class SnapshotStore:
    """The Snapshot of this process. `catch_up` is the one way to a newer one, by what changed where that is known."""

    def __init__(self) -> None:
        # Held by whoever catches up; a batch that must not be overtaken holds it longer.
        self.steady = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._seen_from = 0.0  # on the steady clock: it was in force at this moment or later

    @property
    def version(self) -> int | None:
        """Of the Snapshot, None while there is none. Reads nothing."""
        return self._snapshot.version if self._snapshot else None

    @property
    def current(self) -> Snapshot:
        """The newest Snapshot this process has; reads the database the first time."""
        return self._snapshot or self.catch_up(head())

    def newest(self) -> Snapshot:
        """The Snapshot in force."""
        with self.steady:
            return self._bring() if self._snapshot is not None else self.catch_up(head())

    def catch_up(self, to: Head) -> Snapshot:
        """The Snapshot of `to` or a newer one. Several threads that ask at once read the database once."""
        if (known := self._snapshot) is not None and known.stamp == to.stamp:
            return known  # whoever reads now must not hold up those who need nothing
        with self.steady:
            if self._snapshot is None:
                with SNAPSHOT_SECONDS.labels("everything").time():
                    self._snapshot = compile_snapshot()
            elif self._snapshot.stamp != to.stamp and self._seen_from < to.known_at:
                return self._bring()
            return self._snapshot

    def _bring(self) -> Snapshot:
        """To what is in force now."""
        assert self._snapshot is not None
        began = _seen_from_now()
        with SNAPSHOT_SECONDS.labels("changes").time():
            found = _newer(self._snapshot) or compile_snapshot(self._snapshot)
        self._snapshot, self._seen_from = found, began
        return found

    def look(self, *whose: Subject) -> tuple[Snapshot, datetime]:
        """Policy as it is now, with what these subjects have used up, and the database's clock: what lists show."""
        now = _head()
        snapshot = self.catch_up(now)
        return with_spent(snapshot, uses_now(counted(snapshot, whose, now.clock))), now.clock

    def renew(self, over: threading.Event) -> None:
        """Read everything anew, so that what got past the triggers is not believed for ever. Takes its time, and holds
        up nobody; gives up when `over` is set, or when too much has changed meanwhile.
        """
        if self._snapshot is None:
            return
        try:
            fresh = compile_snapshot(self._snapshot, over=over)
        except Stopped:
            return
        with self.steady:
            began = _seen_from_now()
            # Nobody may see it before: it may be older than what this process goes by.
            if (found := _newer(fresh)) is not None:
                self._snapshot, self._seen_from = found, began


def _seen_from_now() -> float:
    """On the steady clock, for a read that begins. Inside of a transaction it may see what was long before."""
    return 0.0 if in_transaction() else steady()


_head = once(head)  # `catch_up` asks anew where this one is old


def counted(snapshot: Snapshot, whose: Iterable[Subject], at: datetime) -> set[UUID]:
    """The live bindings of these subjects whose uses are counted."""
    return {
        binding.id
        for subject in whose
        for binding in snapshot.bindings.get(subject, ())
        if binding.max_uses is not None and binding.live(at)
    }


def with_spent(snapshot: Snapshot, left: Mapping[UUID, int]) -> Snapshot:
    """The Snapshot in which those allow nothing of which nothing is left."""
    spent = {binding for binding, count in left.items() if count <= 0}
    return replace(snapshot, spent=snapshot.spent | spent) if spent else snapshot


def uses_now(bindings: set[UUID]) -> dict[UUID, int]:
    """How many uses are left, as somebody last committed. Asks nothing for nothing."""
    if not bindings:
        return {}
    left = dict(BindingUse.objects.filter(pk__in=bindings).values_list("pk", "left"))
    return {binding: left.get(binding, 0) for binding in bindings}


def _newer(old: Snapshot) -> Snapshot | None:
    """The Snapshot in force, made from `old` and what changed since; None when that is not known, or too much."""
    with consistent_reads():
        with byhand.round_trip():
            asked, rows = byhand.execute(HEAD), byhand.execute(_CHANGES, (str(old.version),))
        now = head_of(asked.rows[0])
        if now.stamp == old.stamp:
            return old
        changed = _changes(old, now, [(int(version), *what) for version, *what in rows.rows])
        if changed is None or sum(map(len, changed.values())) > MANY_CHANGES:
            return None
        return _with_changes(old, now, changed)


def _changes(old: Snapshot, now: Head, rows: Sequence[tuple[int, str, str, str]]) -> dict[str, set[UUID]] | None:
    """Ids by kind of what the versions after `old` changed. None when that cannot be said: `old` is too old, or of
    another history (a restored backup, a failover), or a table was emptied.
    """
    if now.version <= old.version or len(rows) > MANY_CHANGES:
        return None
    found: dict[str, set[UUID]] = defaultdict(set)
    versions = set()
    for version, stamp, kind, key in rows:
        if version == old.version:
            if stamp != old.stamp:
                return None
        elif not key:
            return None
        else:
            found[kind].add(UUID(key))
        versions.add(version)
    if versions != set(range(old.version, now.version + 1)):
        return None
    if access := found.pop("access", None):
        found["server"].update(ServerAccess.objects.filter(pk__in=access).values_list("server_id", flat=True))
    if found["role"]:
        found["binding"].update(RoleBinding.objects.filter(role__in=found["role"]).values_list("pk", flat=True))
    return found


def _with_changes(old: Snapshot, now: Head, changed: Mapping[str, set[UUID]]) -> Snapshot:
    new = replace(
        old,
        version=now.version,
        stamp=now.stamp,
        agents=_replaced(old.agents, changed["agent"], lambda ids: agents(Agent.objects.filter(pk__in=ids).order_by())),
        users=_replaced(old.users, changed["user"], lambda ids: users(User.objects.filter(pk__in=ids).order_by())),
        servers=_replaced(old.servers, changed["server"], lambda ids: servers(Server.objects.filter(pk__in=ids))),
        requestables=requestables() if changed["requestable"] else old.requestables,
        locks=locks(now.clock) if changed["lock"] else old.locks,
        teams=teams() if changed["team"] else old.teams,
        roles=requestable_roles() if changed["role"] else old.roles,
    )
    return _with_bindings(new, now.clock, changed["binding"]) if changed["binding"] else new


def _replaced(
    old: Mapping[UUID, Facts], ids: set[UUID], read: Callable[[set[UUID]], dict[UUID, Facts]]
) -> Mapping[UUID, Facts]:
    if not ids:
        return old
    return _exchanged(old, ids, read(ids))


def _exchanged(old: Mapping[UUID, Facts], ids: Iterable[UUID], new: Mapping[UUID, Facts]) -> Mapping[UUID, Facts]:
    """Those instead of these. Never by a test for each: a UUID is hashed in Python, and there may be 100,000."""
    kept = dict(old)
    for pk in ids:
        kept.pop(pk, None)
    kept.update(new)
    return kept


def _with_bindings(old: Snapshot, clock: datetime, ids: set[UUID]) -> Snapshot:
    fresh = read_bindings(RoleBinding.objects.filter(pk__in=ids).order_by(), clock)
    touched = {old.places[pk] for pk in ids if pk in old.places} | {place for place, _ in fresh.held.values()}
    # Where something changes anyway, what ended long ago goes too: nobody writes to it any more.
    ids = ids | {one.id for subject in touched for one in old.bindings.get(subject, ()) if _forgotten(one, clock)}
    bindings = dict(old.bindings)
    for subject in touched:
        held = [one for one in old.bindings.get(subject, ()) if one.id not in ids]
        held += [one for place, one in fresh.held.values() if place == subject]
        bindings[subject] = tuple(held)
        if not held:
            del bindings[subject]
    return replace(
        old,
        bindings=bindings,
        places=_exchanged(old.places, ids, {pk: place for pk, (place, _) in fresh.held.items()}),
        spent=(old.spent - ids) | fresh.spent,
    )


def _forgotten(binding: BindingFacts, clock: datetime) -> bool:
    ends = [end for end in (binding.expires_at, binding.ended_at) if end is not None]
    return bool(ends) and min(ends) <= clock - REMEMBERED
