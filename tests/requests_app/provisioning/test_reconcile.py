"""What a target really has, against what it should have: repaired where it is ours, told where it is not."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from jitaccess.audit.models import Entry
from jitaccess.store.clock import now
from requests_app.models import Grant
from requests_app.provisioning.reconcile import reconcile
from requests_app.provisioning.rows import Target
from requests_app.provisioning.tasks import provision, reconcile_targets
from tests.cast import Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains
from tests.requests_app.provisioning.play import granted, revoked, state, the_provision, told
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.django_db


def test_when_all_is_as_it_should_be_nothing_happens(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast)
    provision()
    with gains():
        assert reconcile_targets() == 1
        provision()
    assert len(shelf.heard) == 1
    target.refresh_from_db()
    assert target.listed_at is not None


def test_what_is_missing_is_given_again(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    provision()
    shelf.there.clear()
    with gains("provision.drift_found"):
        reconcile_targets()
        reconcile_targets()
    entry = Entry.objects.get(event="provision.drift_found")
    assert (json.loads(entry.data)["what"], entry.grant) == ("missing", grant.pk)
    with gains("provision.repaired"):
        provision()
    assert (state(), list(shelf.there)) == ("granted", [the_provision().pk])
    assert len({attempt for _, attempt in shelf.heard}) == 2
    with gains():
        reconcile_targets()


def test_what_is_there_again_though_it_was_taken_away_is_taken_away(cast: Cast, target: Target, shelf: Shelf) -> None:
    """As when the target was restored from a backup, or a request of a frozen worker came in late."""
    grant = granted(cast)
    provision()
    revoked(grant)
    provision()
    shelf.there[the_provision().pk] = "tool:git/git_commit"
    reconcile_targets()
    provision()
    assert (state(), shelf.there) == ("revoked", {})
    assert told() == ["granted", "revoked", "drift_found", "repaired"]


def test_what_is_not_ours_is_told_once_and_never_touched(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast)
    provision()
    strange = uuid4()
    shelf.there[strange] = "of another installation"
    shelf.foreign = ["bob\u202e"]
    with gains("provision.drift_found"):
        reconcile_targets()
        reconcile_targets()
        provision()
    data = json.loads(Entry.objects.get(event="provision.drift_found").data)
    assert (data["what"], data["count"], data["names"]) == ("foreign", 2, ["bob\\u{202e}", "of another installation"])
    assert strange in shelf.there
    assert shelf.foreign == ["bob\u202e"]
    assert len(shelf.heard) == 1
    target.refresh_from_db()
    assert "bob\\u{202e}" in target.unknown
    shelf.foreign = []
    del shelf.there[strange]
    with gains():
        reconcile_targets()
    target.refresh_from_db()
    assert target.unknown == ""


def test_a_list_that_is_older_than_a_change_finds_nothing(
    cast: Cast, target: Target, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = granted(cast)
    provision()
    listing = shelf.list

    def slow() -> object:
        found = list(listing())
        revoked(grant)
        provision()
        return found

    monkeypatch.setattr(shelf, "list", slow)
    with gains("grant.revoked", "provision.revoked"):
        drift = reconcile(target)
    assert drift is not None
    assert (drift.extra, state()) == ((), "revoked")


def test_what_somebody_is_working_on_is_left_to_them(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast)
    with shelf.down():
        provision()
    with gains():
        reconcile_targets()
    assert not the_provision().drifted


def test_a_target_that_cannot_be_listed_is_no_empty_one(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast)
    provision()
    other = Target.objects.create(slug="broken", kind="nobody-brings-it", match="")
    with shelf.down(), gains():
        assert reconcile_targets() == 0
    shelf.trouble = ZeroDivisionError("a bug")
    with gains():
        assert reconcile(target) is None
    for row in (target, other):
        row.refresh_from_db()
    assert (target.last_error, state()) == ("ZeroDivisionError: a bug", "granted")
    assert "No installed package" in other.last_error


def test_an_end_that_nobody_told_is_found_by_the_next_sweep(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    provision()
    Grant.objects.filter(pk=grant.pk).update(ended_at=now(), end_reason="revoked")
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_one_from_a_time_when_no_worker_ran_by_the_comparison(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    grant = granted(cast, seconds=7200)
    provision()
    Grant.objects.filter(pk=grant.pk).update(ended_at=now(), end_reason="revoked")
    clock.shift(3600)
    with gains():
        provision()
    reconcile_targets()
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_a_repair_that_is_not_wanted_any_more_only_takes_away(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    provision()
    shelf.there.clear()
    reconcile_targets()
    revoked(grant)
    provision()
    assert (state(), shelf.there) == ("revoked", {})
    assert [what for what, _ in shelf.heard] == ["grant", "revoke"]


def test_what_was_never_given_and_is_there_is_taken_away(cast: Cast, target: Target, shelf: Shelf) -> None:
    revoked(granted(cast))
    provision()
    row = the_provision()
    shelf.there[row.pk] = "early"
    reconcile_targets()
    provision()
    assert (state(), shelf.there) == ("revoked", {})
