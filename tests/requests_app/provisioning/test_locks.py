"""An emergency stop reaches the targets too, and only what it stops; lifted, what is still granted comes back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from requests_app.provisioning.rows import Provision, Target
from requests_app.provisioning.tasks import provision, reconcile_targets
from tests.cast import Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains
from tests.requests_app.provisioning.play import granted, revoked, state, the_provision
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.django_db


def locked(kind: str, target: Any = None, **more: Any) -> Lock:
    """A lock as it is in the table, whoever may set one."""
    values = {"reason": "stop", "created_at": now(), "created_by_name": "admin"} | more
    return Lock.objects.create(kind=kind, target=target, **values)


def items_of(cast: Cast) -> list[dict[str, Any]]:
    return [{"kind": "tools", "server": "git", "server_id": str(cast.server.pk), "tools": [{"name": "git_commit"}]}]


@pytest.mark.parametrize("kind", ["agent", "user", "server", "grant", "everything"])
def test_a_lock_takes_away_what_it_stops_and_lifted_it_comes_back(
    cast: Cast, target: Target, shelf: Shelf, kind: str
) -> None:
    grant = granted(cast, items=items_of(cast), principal=cast.principal(user=cast.olga))
    provision()
    targets = {"agent": cast.agent.pk, "user": cast.olga.pk, "server": cast.server.pk, "grant": grant.pk}
    lock = locked(kind, targets.get(kind))
    with gains("provision.revoked"):
        provision()
    assert (state(), shelf.there) == ("revoked", {})
    with gains():
        provision()
        reconcile_targets()
        provision()
    Lock.objects.filter(pk=lock.pk).update(lifted_at=now(), lifted_by_name="admin")
    with gains("provision.granted"):
        provision()
    assert (state(), len(shelf.there)) == ("granted", 1)


def test_a_lock_on_another_stops_nothing_here(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast, items=items_of(cast))
    provision()
    for kind in ("agent", "user", "server", "role", "grant"):
        locked(kind, cast.anna.pk)
    with gains():
        provision()
    assert len(shelf.heard) == 1


def test_a_locked_role_is_taken_away(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast, items=[{"kind": "role", "role": "report-writer", "role_id": str(cast.read_only.pk)}])
    provision()
    locked("role", cast.read_only.pk)
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_of_two_grants_one_may_be_locked(cast: Cast, target: Target, shelf: Shelf) -> None:
    first, second = granted(cast, items=items_of(cast)), granted(cast, items=items_of(cast))
    provision()
    locked("grant", first.pk)
    provision()
    assert (state(), len(shelf.heard)) == ("granted", 1)
    revoked(second)
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_under_a_lock_nothing_is_given(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    granted(cast, items=items_of(cast))
    locked("agent", cast.agent.pk, expires_at=now() + timedelta(seconds=60))
    provision()
    assert (state(), shelf.heard) == ("none", [])
    clock.shift(61)
    provision()
    assert (state(), len(shelf.there)) == ("granted", 1)


def test_what_a_lock_that_was_lifted_long_ago_had_stopped_is_found(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    granted(cast, items=items_of(cast), seconds=7200)
    lock = locked("everything")
    provision()
    Lock.objects.filter(pk=lock.pk).update(lifted_at=now(), lifted_by_name="admin")
    clock.shift(600)
    provision()
    assert the_provision().next_try_at is None
    reconcile_targets()
    provision()
    assert state() == "granted"


def test_a_lock_calls_nobody_back_who_has_no_grant_any_more(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast, items=items_of(cast))
    provision()
    lock = locked("everything")
    provision()
    revoked(grant)
    Lock.objects.filter(pk=lock.pk).update(lifted_at=now(), lifted_by_name="admin")
    provision()
    assert (state(), Provision.objects.count(), shelf.there) == ("revoked", 1, {})


def test_a_lock_on_the_owner_takes_away_what_his_agents_have(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast, items=items_of(cast))  # the agent alone; olga owns it
    provision()
    locked("user", cast.olga.pk)
    assert str(cast.verdict("git_log").code) == "locked_down"
    provision()
    assert (state(), shelf.there) == ("revoked", {})
