"""A Snapshot brought up to date by what changed is the one that is read from everything."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy import compiler, snapshots
from jitaccess.policy.compiler import Head, compile_snapshot, head
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.models import BindingUse, PolicyChange, PolicyVersion, RoleBinding, ServerAccess
from jitaccess.policy.services import lock_uses, return_uses, save_role, take_uses
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.policy.triggers import KEPT_VERSIONS
from jitaccess.store.clock import now
from requests_app.models import Grant
from requests_app.services import revoke_grant
from tests.cast import OPERATOR, READ_ONLY, Cast, person
from tests.clocks import Clock
from tests.past_triggers import past_the_triggers
from tests.policy.test_version import CHANGES, Change
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def normal(snapshot: Snapshot) -> Snapshot:
    """Without the order in which bindings came."""
    bindings = {subject: tuple(sorted(held, key=lambda one: one.id)) for subject, held in snapshot.bindings.items()}
    return replace(snapshot, bindings=bindings)


def same(store: SnapshotStore) -> bool:
    return normal(store.catch_up(head())) == normal(compile_snapshot())


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What each step was that could not be made from what changed."""
    found: list[object] = []
    changes = snapshots._changes

    def watched(old: Snapshot, now: Head, rows: Any) -> Any:
        known = changes(old, now, rows)
        if known is None:
            found.append((old.version, now))
        return known

    monkeypatch.setattr(snapshots, "_changes", watched)
    return found


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_what_changed_is_enough(cast: Cast, change: Change, reloads: list[object]) -> None:
    person("erik")  # the version has to have been raised once since the tables were emptied
    store = SnapshotStore()
    assert same(store)
    change(cast)
    assert same(store)
    assert reloads == []


STEPS: list[Callable[[Cast, Random], Any]] = [
    lambda cast, random: cast.grant("git_commit", seconds=60, reason=str(random.random())),
    lambda cast, random: revoke_grant(grant_id=_any(Grant, random, ended_at=None).pk, user=cast.admin),
    lambda cast, random: save_role(
        document=READ_ONLY + f"    - servers: [x{random.random()}]\n      access: [write]\n",
        operator=OPERATOR,
        role=cast.read_only,
    ),
    lambda cast, random: Tool.objects.create(server=cast.server, name=f"t{random.random()}", definition="{}"),
    lambda cast, random: _any(Tool, random).delete(),
    lambda cast, random: Agent.objects.filter(pk=cast.agent.pk).update(enabled=random.random() < 0.8),
    lambda cast, random: cast.agent.users.set(random.sample([cast.anna, cast.bert, cast.carl], 2)),
    lambda cast, random: cast.team.members.set(random.sample([cast.olga, cast.anna, cast.bert, cast.carl], 3)),
    lambda cast, random: ServerAccess.objects.update(every_team=random.random() < 0.5),
    lambda cast, random: Server.objects.create(slug=f"s{random.randrange(10**9)}"),
    lambda cast, random: Server.objects.exclude(pk=cast.server.pk).delete(),
    lambda cast, random: RoleBinding.objects.filter(origin="default").update(ended_at=random.choice([None, now()])),
    lambda cast, random: RoleBinding.objects.filter(origin="default").order_by("?").first().delete(),
    lambda cast, random: User.objects.filter(pk=cast.carl.pk).update(username=f"carl{random.random()}"),
]


def _any(model: Any, random: Random, **wanted: Any) -> Any:
    return random.choice(list(model.objects.filter(**wanted).order_by("pk")))


@pytest.mark.parametrize("seed", range(6))
def test_any_walk_of_changes_ends_where_reading_everything_ends(
    cast: Cast, clock: Clock, seed: int, reloads: list[object]
) -> None:
    random, store = Random(seed), SnapshotStore()
    person("erik")
    assert same(store)
    for _ in range(12):
        steps = random.sample(STEPS, random.randint(1, 4))
        for step in steps:
            # A walk may well want what is not there any more, or may not be had now.
            with contextlib.suppress(JitAccessError, IndexError, AttributeError), transaction.atomic():
                step(cast, random)
        if random.random() < 0.2:
            clock.shift(random.choice([90, 3600]))
        assert same(store)
    assert reloads == []


def test_what_ended_long_ago_leaves_a_snapshot_that_is_never_read_anew(cast: Cast, clock: Clock) -> None:
    store = SnapshotStore()
    for _ in range(3):
        cast.grant("git_commit", seconds=60)
        clock.shift(61)
    assert len(store.catch_up(head()).places) == 2 + 3
    clock.shift(25 * 3600)
    cast.grant("git_commit", seconds=60)
    assert same(store)
    assert len(store.current.places) == 3


def test_a_database_that_went_back_and_on_again_is_read_anew(cast: Cast, reloads: list[object]) -> None:
    """A failover that lost the last commits, or a restored backup: the same number, another history."""
    store = SnapshotStore()
    person("dora")
    assert same(store)
    lost = PolicyVersion.objects.get()
    User.objects.filter(username="dora").update(is_active=False)
    User.objects.filter(username="dora").update(is_active=True)
    known = store.catch_up(head())
    with connection.cursor() as cursor:  # two versions are gone, and two others came
        cursor.execute("DELETE FROM jit_policy_policychange WHERE version > %s", [lost.version])
        cursor.execute("UPDATE jit_policy_policyversion SET version = %s, stamp = %s", [lost.version, lost.stamp])
    User.objects.filter(username="anna").update(is_active=False)
    User.objects.filter(username="bert").update(is_active=False)
    assert head().version == known.version
    assert same(store)
    assert not store.current.users[cast.anna.pk].active
    assert len(reloads) == 1


def test_a_history_with_a_gap_is_read_anew(cast: Cast, reloads: list[object]) -> None:
    store = SnapshotStore()
    person("dora")
    assert same(store)
    person("emil")
    PolicyChange.objects.filter(version=head().version).delete()
    person("fred")
    assert same(store)
    assert len(reloads) == 1


def test_a_table_that_was_emptied_is_read_anew(cast: Cast, postgresql: bool) -> None:
    store = SnapshotStore()
    assert same(store)
    with connection.cursor() as cursor:
        cursor.execute(f"{'TRUNCATE' if postgresql else 'DELETE FROM'} jit_identity_agent_users")
        cursor.execute(f"{'TRUNCATE' if postgresql else 'DELETE FROM'} jit_policy_requestable")
    assert same(store)
    assert store.current.requestables == ()


def test_the_history_is_kept_for_ten_thousand_versions_only(cast: Cast) -> None:
    person("dora")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jit_policy_policyversion SET version = version + %s", [KEPT_VERSIONS + 5])
    person("emil")
    assert {row.version for row in PolicyChange.objects.all()} == {head().version}


# -- uses -------------------------------------------------------------------------------------------------------------


def _whose(cast: Cast) -> Subject:
    return Subject(agent=cast.agent.pk)


def test_uses_are_counted_and_never_raise_the_version(cast: Cast) -> None:
    binding, store = cast.limited(3), SnapshotStore()
    version = store.catch_up(head()).version
    for left in (3, 2, 1):
        with transaction.atomic():
            assert lock_uses([binding.pk]) == {binding.pk: left}
            take_uses({binding.pk: 1})
    assert store.look(_whose(cast))[0].spent == {binding.pk}
    assert store.look(Subject(agent=cast.anna.pk))[0].spent == frozenset(), "only what was asked for is looked at"
    assert cast.verdict("git_commit").code == "used_up"
    with transaction.atomic():
        return_uses({binding.pk: 1})
    assert store.look(_whose(cast))[0].spent == frozenset()
    assert head().version == version


def test_a_binding_without_its_count_allows_nothing(cast: Cast) -> None:
    cast.limited(1)
    BindingUse.objects.all().delete()
    assert cast.verdict("git_commit").code == "used_up"


def test_an_ended_binding_stays_known_as_used_up(cast: Cast) -> None:
    binding, store = cast.limited(1), SnapshotStore()
    assert same(store)
    with transaction.atomic():
        take_uses({binding.pk: 1})
    RoleBinding.objects.filter(pk=binding.pk).update(ended_at=now())
    assert same(store)
    assert store.current.spent == {binding.pk}


@pytest.mark.postgresql_only
def test_a_revoke_does_not_wait_for_a_batch_that_holds_the_uses(cast: Cast) -> None:
    binding = cast.limited(3)
    grant = Grant.objects.get(pk=binding.origin_id)
    with transaction.atomic():
        lock_uses([binding.pk])
        race(lambda: revoke_grant(grant_id=grant.pk, user=cast.admin))  # in another session; it would wait for ever
    assert Grant.objects.get().end_reason == "revoked"


@pytest.mark.postgresql_only
def test_who_does_not_let_go_of_uses_holds_up_nobody_for_long(cast: Cast) -> None:
    binding = cast.limited(3)
    found: list[Any] = []

    def other() -> None:
        with transaction.atomic():
            found.append(lock_uses([binding.pk]))
            found.append(Grant.objects.count())  # the transaction is good for others still

    with transaction.atomic():
        lock_uses([binding.pk])
        race(other)
    assert found == [None, 1]


class Pauses(threading.Event):
    """Counts them, and is set after `most`; nobody waits."""

    def __init__(self, most: int = 10_000) -> None:
        super().__init__()
        self.most, self.count = most, 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "it would wait for ever"
        self.count += 1
        return self.count > self.most


@pytest.fixture
def rows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "PIECE", 1)


@pytest.mark.usefixtures("rows_one_by_one")
def test_what_is_read_anew_in_pieces_is_what_was_read_at_once_and_what_is_equal_is_not_had_twice(cast: Cast) -> None:
    cast.limited(3)
    store, pauses = SnapshotStore(), Pauses()
    old = store.current
    store.renew(pauses)
    new = store.current
    assert new is not old
    assert new == old
    assert pauses.count > 5, "others get their turn"
    for kind in ("agents", "users", "servers", "places"):
        before, after = getattr(old, kind), getattr(new, kind)
        assert len(after) > 0
        assert all(after[key] is one for key, one in before.items()), kind
    for subject, held in old.bindings.items():
        assert {id(one) for one in held} == {id(one) for one in new.bindings[subject]}


@pytest.mark.usefixtures("rows_one_by_one")
def test_what_has_changed_is_not_kept_when_everything_is_read_anew(cast: Cast) -> None:
    old = compile_snapshot()
    agent = Agent.objects.get(pk=cast.agent.pk)
    Agent.objects.filter(pk=agent.pk).update(enabled=not agent.enabled)
    Tool.objects.filter(pk=cast.tools["git_add"].pk).update(present=False)
    RoleBinding.objects.all().update(ended_at=now())
    person("dora")
    new = compile_snapshot(old)
    assert new == compile_snapshot()
    assert new.agents[agent.pk].enabled is not agent.enabled
    assert all(one.ended_at is not None for held in new.bindings.values() for one in held)


def test_who_knows_of_an_older_policy_than_the_store_reads_nothing(cast: Cast, django_assert_num_queries: Any) -> None:
    store = SnapshotStore()
    assert store.newest() is store.current
    person("dora")
    old = head()
    person("emil")
    brought = store.newest()
    with django_assert_num_queries(0):
        assert store.catch_up(old) is brought
    assert brought.version == head().version > old.version
    person("fred")
    assert store.catch_up(head()).version == head().version, "who knows of a newer one is believed"


def test_a_state_that_stands_still_says_nothing_of_what_is_in_force_by_now(cast: Cast) -> None:
    store = SnapshotStore()
    first = store.current

    def another() -> None:
        person("dora")
        now_known.append(head())

    now_known: list[Head] = []
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            assert store.newest() is first  # from here on this is what it sees
            race(another)
        assert store.newest() is first
    for one in now_known:
        assert store.catch_up(one).version == one.version
    assert len(now_known) == (connection.vendor == "postgresql")


def test_what_got_past_the_triggers_is_not_believed_for_ever(cast: Cast) -> None:
    store = SnapshotStore()
    assert same(store)
    past_the_triggers(lambda: RoleBinding.objects.all().delete())
    person("dora")
    assert not same(store), "it follows what the triggers told"
    store.renew(Pauses())
    assert same(store)


@pytest.fixture
def store() -> SnapshotStore:
    return SnapshotStore()


@pytest.fixture
def overtaken(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever everything has been read at leisure, something changes, and the store follows it."""
    compiled = snapshots.compile_snapshot

    def changing(*given: Any, over: threading.Event | None = None) -> Snapshot:
        found = compiled(*given, over=over)
        if over is not None:
            person(f"dora{head().version}")
            store.newest()
        return found

    monkeypatch.setattr(snapshots, "compile_snapshot", changing)


@pytest.mark.usefixtures("overtaken")
def test_what_is_read_anew_is_in_force_whatever_changed_meanwhile(
    cast: Cast, store: SnapshotStore, reloads: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(store)
    past_the_triggers(lambda: RoleBinding.objects.all().delete())
    newer, seen = snapshots._newer, list[int | None]()

    def watched(old: Snapshot) -> Snapshot | None:
        seen.append(store.version)
        found = newer(old)
        seen.append(store.version)
        return found

    monkeypatch.setattr(snapshots, "_newer", watched)
    store.renew(Pauses())
    assert store.version == head().version, "what changed meanwhile is in it"
    assert same(store)
    assert reloads == []
    # Twice when it followed, twice when it was renewed.
    assert seen[2:] == [head().version] * 2, "nobody saw an older one meanwhile"


@pytest.mark.usefixtures("overtaken")
def test_a_database_that_is_lost_at_the_end_of_reading_anew_takes_nobody_back(
    cast: Cast, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(store)
    newer = snapshots._newer

    def lost(old: Snapshot) -> Snapshot | None:
        if old is not store.current:
            raise OperationalError("lost")
        return newer(old)

    monkeypatch.setattr(snapshots, "_newer", lost)
    with pytest.raises(OperationalError):
        store.renew(Pauses())
    assert store.version == head().version
    person("emil")
    assert store.catch_up(head()).version == head().version


@pytest.mark.usefixtures("overtaken")
def test_when_too_much_has_changed_meanwhile_the_store_keeps_what_it_has(
    cast: Cast, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(store)
    monkeypatch.setattr(snapshots, "MANY_CHANGES", 0)
    store.renew(Pauses())
    kept = store.current
    assert kept.version == head().version
    store.renew(Pauses())
    assert store.version == head().version > kept.version
    assert same(store)


@pytest.mark.usefixtures("rows_one_by_one")
def test_a_process_that_ends_reads_no_further(cast: Cast) -> None:
    store, pauses = SnapshotStore(), Pauses(most=2)
    old = store.current
    store.renew(pauses)
    assert pauses.count == 3
    assert store.current is old
