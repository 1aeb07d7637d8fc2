"""Locks: who may, what is on record, once each, and that the database keeps them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import DatabaseError, IntegrityError, connection, transaction

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import User
from jitaccess.identity.services import create_agent
from jitaccess.kernel.errors import Conflict, JitAccessError
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.locks import find_target, live_locks, lock, lock_on, locks_seen_by, unlock
from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast, person
from tests.clocks import Clock
from tests.races import race

pytestmark = pytest.mark.django_db


def by(user: User) -> Actor:
    return Actor(user=user.pk, user_name=user.username, client="tests")


def refusal(do: Any, **options: Any) -> str:
    """The code with which it is refused, having changed nothing."""
    before = (list(Lock.objects.values()), Entry.objects.count())
    with pytest.raises(JitAccessError) as caught:
        do(**options)
    assert (list(Lock.objects.values()), Entry.objects.count()) == before
    return caught.value.code


def clerk(*permissions: str) -> User:
    """A member of staff with these permissions only."""
    user = person(f"clerk{User.objects.count()}")
    User.objects.filter(pk=user.pk).update(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return User.objects.get(pk=user.pk)


def targets(cast: Cast) -> dict[str, Any]:
    return {
        "agent": cast.agent.pk,
        "user": cast.olga.pk,
        "server": cast.server.pk,
        "role": cast.read_only.pk,
        "grant": cast.grant().pk,
        "everything": None,
    }


def test_each_kind_is_locked_and_lifted_with_one_entry_each(cast: Cast) -> None:
    names = {
        "agent": "demo-agent", "user": "olga", "server": "git", "role": "read-only", "grant": "demo-agent",
        "everything": "",
    }  # fmt: skip
    for kind, target in targets(cast).items():
        made = lock(kind=kind, target=target, reason="It leaks\0", operator=by(cast.admin))
        assert (made.target_name, made.reason, made.created_by_name) == (names[kind], "It leaks\\u{0}", "admin")
        assert lock_on(target) == made
        entry = Entry.objects.get(event="lock.created", data__contains=str(made.pk))
        assert (entry.user, entry.grant) == (cast.admin.pk, target if kind == "grant" else None)
        assert json.loads(entry.data)["target"] == (str(target) if target else None)
        lifted = unlock(lock=made, operator=by(cast.admin))
        assert lifted.lifted_by_name == "admin"
        assert lifted.lifted_at
        assert not live_locks().exists()
        assert Entry.objects.filter(event="lock.lifted", data__contains=str(made.pk)).count() == 1
        assert refusal(unlock, lock=made, operator=by(cast.admin)) == "lock.over"


@pytest.mark.parametrize("kind", ["agent", "user", "server", "role", "grant", "everything"])
def test_a_lock_refuses_the_next_call_and_lifted_or_over_it_does_not(kind: str, cast: Cast, clock: Clock) -> None:
    target, tool = targets(cast)[kind], "git_commit" if kind == "grant" else "git_log"
    principal = cast.principal(user=cast.olga if kind == "user" else None)
    assert cast.verdict(tool, principal).allowed
    made = lock(kind=kind, target=target, reason="x", operator=OPERATOR)
    assert cast.verdict(tool, principal).code == "locked_down"
    unlock(lock=made, operator=OPERATOR)
    assert cast.verdict(tool, principal).allowed
    lock(kind=kind, target=target, reason="x", operator=OPERATOR, expires_at=now() + timedelta(seconds=60))
    assert not cast.verdict(tool, principal).allowed
    clock.shift(61)
    assert cast.verdict(tool, principal).allowed


def test_a_second_equal_lock_names_the_first_and_another_one_is_made(cast: Cast) -> None:
    first = lock(kind="agent", target=cast.agent.pk, reason="x", operator=OPERATOR)
    with pytest.raises(Conflict, match=r"Agent demo-agent was locked by operator at \d\d:\d\d UTC") as caught:
        lock(kind="agent", target=cast.agent.pk, reason="y", operator=by(cast.admin))
    assert caught.value.params == {"lock_id": str(first.pk)}
    lock(kind="everything", reason="y", operator=OPERATOR)
    unlock(lock=first, operator=OPERATOR)
    assert lock(kind="agent", target=cast.agent.pk, reason="again", operator=OPERATOR).pk != first.pk


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"reason": " \u200b\n"}, "lock.reason"),
        ({"reason": "x" * 501}, "lock.reason"),
        ({"target": None}, "lock.target"),
        ({"target": uuid7()}, "lock.target"),
        ({"kind": "everything"}, "lock.target"),
        ({"kind": "tool"}, "lock.kind"),
        ({"kind": "grant"}, "lock.target"),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(changes: dict[str, Any], code: str, cast: Cast) -> None:
    options: dict[str, Any] = {"kind": "agent", "target": cast.agent.pk, "reason": "x", "operator": OPERATOR}
    assert refusal(lock, **options | changes) == code
    assert refusal(lock, **options, expires_at=now() - timedelta(seconds=1)) == "lock.expiry"


def test_its_time_is_up_by_the_clock_alone(cast: Cast, clock: Clock) -> None:
    made = lock(kind="server", target=cast.server.pk, reason="x", operator=OPERATOR, expires_at=now() + timedelta(60))
    assert lock_on(cast.server.pk) == made
    clock.shift(60 * 86400 + 1)
    assert lock_on(cast.server.pk) is None
    assert refusal(unlock, lock=made, operator=OPERATOR) == "lock.over"
    lock(kind="server", target=cast.server.pk, reason="again", operator=OPERATOR)


def test_an_agent_and_people_without_the_permission_lock_nothing(cast: Cast) -> None:
    found = targets(cast)
    made = lock(kind="everything", reason="x", operator=OPERATOR)
    agent = Actor(agent=cast.agent.pk, agent_name="demo-agent", user=cast.admin.pk)
    for kind, target in found.items():
        options = {"kind": kind, "target": target, "reason": "x"}
        assert refusal(lock, **options, operator=agent) == "agents_never_decide"
        for user in (cast.anna, cast.carl, clerk("view_lock", "change_lock")):
            assert refusal(lock, **options, operator=by(user)) == "lock.not_yours"
    assert refusal(unlock, lock=made, operator=agent) == "agents_never_decide"
    for user in (cast.olga, cast.carl, clerk("view_lock", "add_lock")):
        assert refusal(unlock, lock=made, operator=by(user)) == "lock.not_yours"
    unlock(lock=made, operator=by(clerk("change_lock")))


def test_an_owner_locks_his_own_agent_and_its_grants_and_lifts_what_he_made_himself(cast: Cast) -> None:
    other = create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)
    found = targets(cast)
    for kind in ("agent", "grant"):
        mine = lock(kind=kind, target=found[kind], reason="odd", operator=by(cast.olga))
        unlock(lock=mine, operator=by(cast.olga))
        theirs = lock(kind=kind, target=found[kind], reason="odd", operator=by(cast.admin))
        assert refusal(unlock, lock=theirs, operator=by(cast.olga)) == "lock.not_yours"
    for kind in ("user", "server", "role", "everything"):
        assert refusal(lock, kind=kind, target=found[kind], reason="x", operator=by(cast.olga)) == "lock.not_yours"
    assert refusal(lock, kind="agent", target=other.pk, reason="x", operator=by(cast.olga)) == "lock.not_yours"
    assert set(locks_seen_by(cast.olga)) == set(Lock.objects.all())
    assert not locks_seen_by(cast.carl).exists()
    assert locks_seen_by(cast.admin).count() == Lock.objects.count()
    User.objects.filter(pk=cast.olga.pk).update(is_active=False)
    unlock(lock=Lock.objects.filter(kind="agent", lifted_at=None).get(), operator=OPERATOR)
    assert refusal(lock, kind="agent", target=cast.agent.pk, reason="x", operator=by(cast.olga)) == "lock.not_yours"


def test_a_name_that_changed_hands_lifts_nothing(cast: Cast) -> None:
    made = lock(kind="agent", target=cast.agent.pk, reason="x", operator=by(cast.admin))
    User.objects.filter(pk=cast.admin.pk).update(username="someone")
    User.objects.filter(pk=cast.olga.pk).update(username="admin")
    assert refusal(unlock, lock=made, operator=by(User.objects.get(pk=cast.olga.pk))) == "lock.not_yours"


def test_targets_are_found_by_name_and_by_id(cast: Cast) -> None:
    assert find_target("agent", " demo-agent ") == cast.agent.pk
    assert find_target("user", "olga") == cast.olga.pk
    assert find_target("server", "git") == find_target("server", str(cast.server.pk)) == cast.server.pk
    assert find_target("role", "read-only") == cast.read_only.pk
    assert find_target("everything", "") is None
    for kind, text in (("agent", "git"), ("grant", "demo-agent"), ("everything", "git"), ("tool", "x"), ("user", "")):
        with pytest.raises(JitAccessError):
            find_target(kind, text)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM jit_policy_lock",
        "UPDATE jit_policy_lock SET reason = 'another'",
        "UPDATE jit_policy_lock SET expires_at = jit_now()",
        "UPDATE jit_policy_lock SET kind = 'everything', target = NULL",
        "UPDATE jit_policy_lock SET lifted_by_name = 'nobody'",
    ],
)
def test_the_database_keeps_a_lock_as_it_was_made(statement: str, cast: Cast) -> None:
    made = lock(kind="agent", target=cast.agent.pk, reason="x", operator=OPERATOR)
    for _ in range(2):
        with pytest.raises((DatabaseError, IntegrityError), match="a lock is kept"), transaction.atomic():
            connection.cursor().execute(statement)
        unlock(lock=made, operator=OPERATOR) if made.lifted_at is None else None
        made.refresh_from_db()
    lifted = "UPDATE jit_policy_lock SET lifted_at = NULL, lifted_by_name = ''"
    with pytest.raises((DatabaseError, IntegrityError), match="a lock is kept"), transaction.atomic():
        connection.cursor().execute(lifted)


def test_replacing_or_truncating_them_is_refused(cast: Cast, postgresql: bool) -> None:
    lock(kind="agent", target=cast.agent.pk, reason="x", operator=OPERATOR)
    replace = "INSERT OR REPLACE INTO jit_policy_lock SELECT * FROM jit_policy_lock"
    # The bump of the version is pending until then, and would refuse it for another reason.
    statement = "SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE jit_policy_lock" if postgresql else replace
    with pytest.raises((DatabaseError, IntegrityError), match="a lock is kept"), transaction.atomic():
        connection.cursor().execute(statement)
    assert live_locks().count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_equal_locks_and_of_two_liftings_at_once_one_is_refused(cast: Cast) -> None:
    def stop(user: User) -> Any:
        return lambda: lock(kind="agent", target=cast.agent.pk, reason="x", operator=by(user))

    for _ in range(5):
        results = race(*[stop(cast.admin)] * 3)
        (made,) = [one for one in results if isinstance(one, Lock)]
        assert [one.code for one in results if isinstance(one, Conflict)] == ["lock.exists"] * 2
        lifted = race(*[lambda: unlock(lock=made, operator=by(cast.admin))] * 3)
        assert [one.code for one in lifted if isinstance(one, Conflict)] == ["lock.over"] * 2
    assert Entry.objects.filter(event="lock.created").count() == Lock.objects.count() == 5
    assert Entry.objects.filter(event="lock.lifted").count() == 5


def test_a_lock_that_its_owner_could_lift_again_holds_up_nobody_elses(cast: Cast) -> None:
    own = lock(kind="agent", target=cast.agent.pk, reason="mine", operator=by(cast.olga))
    assert refusal(lock, kind="agent", target=cast.agent.pk, reason="again", operator=by(cast.olga)) == "lock.exists"
    firm = lock(kind="agent", target=cast.agent.pk, reason="emergency", operator=by(cast.admin))
    unlock(lock=own, operator=by(cast.olga))
    assert lock_on(cast.agent.pk) == firm
    assert refusal(unlock, lock=firm, operator=by(cast.olga)) == "lock.not_yours"
    assert refusal(lock, kind="agent", target=cast.agent.pk, reason="too", operator=by(cast.olga)) == "lock.exists"
