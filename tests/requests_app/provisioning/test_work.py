"""Giving and taking on a target: intents before touches, looks before beliefs, and nothing left behind."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from jitaccess.audit.models import Entry
from jitaccess.kernel.ids import uuid7
from jitaccess.store.clock import now
from jitaccess.store.metrics import REGISTRY
from requests_app.models import Grant
from requests_app.provisioning import work
from requests_app.provisioning.entitlements import entitlements_of
from requests_app.provisioning.protocol import Permanent
from requests_app.provisioning.rows import Claim, Provision, State, Target
from requests_app.provisioning.service import begin, plan_for, provisions_of, try_again, wind_up
from requests_app.provisioning.tasks import provision
from requests_app.provisioning.work import ALARM_TRIES, GRANT_TRIES, LEASE, attempt
from requests_app.services import release_grant
from tests.cast import Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains, refused
from tests.requests_app.provisioning.play import COMMIT, granted, revoked, state, the_provision, told
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_is_held_while_a_target_is_touched(request: pytest.FixtureRequest) -> None:
    """In these tests everything runs in the transaction of the test; no deeper one may be open then."""
    if "shelf" in request.fixturenames and "target" in request.fixturenames:
        depth = len(connection.savepoint_ids)
        shelf = request.getfixturevalue("shelf")

        def look() -> None:
            assert len(connection.savepoint_ids) == depth, "a transaction is open while a target is touched"

        shelf.meanwhile = look


def failing_times(clock: Clock, tries: int) -> None:
    """Let so many tries happen, each when it is due."""
    for _ in range(tries):
        provision()
        due = the_provision().next_try_at
        Target.objects.update(away_until=None)
        if due is not None and due > now():
            clock.at(due)


def test_what_is_granted_is_given_there_and_taken_away_when_it_ends(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    assert shelf.there == {}, "no target is asked while people wait"
    assert (state(), told()) == ("none", [])
    with gains("provision.granted"):
        assert provision() == 1
    assert shelf.there == {the_provision().pk: "tool:git/git_commit"}
    assert state() == "granted"
    with gains():
        assert provision() == 0
    revoked(grant)
    assert shelf.there, "core access has ended; the target comes after it"
    with gains("provision.revoked"):
        assert provision() == 1
    assert (shelf.there, state()) == ({}, "revoked")
    assert [what for what, _ in shelf.heard] == ["grant", "revoke"]
    assert the_provision().next_try_at is None


def test_an_approval_gives_and_a_release_takes_away(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = cast.grant("git_commit", "git_add")
    provision()
    assert sorted(shelf.there.values()) == ["tool:git/git_add", "tool:git/git_commit"]
    release_grant(grant_id=grant.pk, principal=cast.principal())
    assert not cast.verdict("git_commit").allowed
    assert len(shelf.there) == 2, "core access ends first, then the target"
    provision()
    assert shelf.there == {}


def test_the_entries_say_what_where_for_whom_and_why(cast: Cast, target: Target) -> None:
    grant = granted(cast, principal=cast.principal(user=cast.olga))
    provision()
    entry = Entry.objects.get(event="provision.granted")
    assert (entry.grant, entry.request, entry.user_name) == (grant.pk, grant.request_id, "system:provisioning")
    data = json.loads(entry.data)
    assert data["entitlement"] == "tool:git/git_commit"
    assert (data["target"], data["agent"], data["user"]) == ("shelf", "demo-agent", "olga")
    assert data["live_grants"] == [str(grant.pk)]
    assert data["told"] == "tool:git/git_commit on shelf"


def test_it_ends_by_the_clock_though_nobody_wrote_the_end_down(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    granted(cast, seconds=60)
    provision()
    clock.shift(59)
    with gains():
        provision()
    assert shelf.there
    clock.shift(2)
    with gains("provision.revoked"):
        provision()
    assert (shelf.there, state()) == ({}, "revoked")


def test_what_starts_later_is_given_then(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    granted(cast, starts_at=now() + timedelta(seconds=100), seconds=60)
    assert provision() == 0
    assert (shelf.heard, state()) == ([], "none")
    clock.shift(101)
    assert provision() == 1
    assert shelf.there
    clock.shift(61)
    provision()
    assert shelf.there == {}


def test_what_ended_before_its_turn_is_never_given(cast: Cast, target: Target, shelf: Shelf) -> None:
    revoked(granted(cast))
    with gains():
        assert provision() == 0
    assert (shelf.heard, state()) == ([], "none")


def test_two_grants_of_the_same_touch_the_target_with_the_first_and_the_last(
    cast: Cast, target: Target, shelf: Shelf
) -> None:
    first = granted(cast)
    provision()
    second = granted(cast)
    with gains():
        provision()
    revoked(first)
    with gains():
        provision()
    assert (len(shelf.heard), state()) == (1, "granted"), "the second still wants it"
    revoked(second)
    provision()
    assert ([what for what, _ in shelf.heard], shelf.there) == (["grant", "revoke"], {})
    assert Claim.objects.count() == 2


def test_the_other_way_round_too_and_by_the_clock(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    granted(cast, seconds=60)
    long = granted(cast, seconds=300)
    provision()
    clock.shift(70)
    provision()
    assert shelf.there
    revoked(long)
    provision()
    assert shelf.there == {}


def test_back_to_back_windows_leave_no_gap_that_lasts(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    granted(cast, seconds=60)
    granted(cast, seconds=60, starts_at=now() + timedelta(seconds=60))
    provision()
    clock.shift(61)
    provision()
    assert shelf.there
    clock.shift(61)
    provision()
    assert shelf.there == {}


def test_somebody_elses_grant_is_another_provision(cast: Cast, target: Target, shelf: Shelf) -> None:
    alone, paired = granted(cast), granted(cast, principal=cast.principal(user=cast.olga))
    provision()
    assert len(shelf.there) == 2
    revoked(alone)
    provision()
    assert list(shelf.there) == [provisions_of(paired.pk)[0].pk]


def test_given_again_after_it_was_taken_away_it_keeps_its_id_and_is_a_new_attempt(
    cast: Cast, target: Target, shelf: Shelf
) -> None:
    for _ in range(2):
        grant = granted(cast)
        provision()
        revoked(grant)
        provision()
    assert Provision.objects.count() == 1
    assert len({attempt for _, attempt in shelf.heard}) == 4


def test_while_the_target_is_down_it_is_tried_again_with_growing_pauses(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    granted(cast, seconds=3600)
    pauses = []
    with shelf.down():
        for _ in range(4):
            before = now()
            provision()
            row = the_provision()
            assert row.next_try_at
            pauses.append(round((row.next_try_at - before).total_seconds()))
            assert (row.state, row.last_error) == ("granting", "It is down.")
            Target.objects.update(away_until=None)
            clock.at(row.next_try_at)
    assert pauses == [2, 4, 8, 16]
    assert told() == ["failed"], "the first of a row of failures is on record, the others are counted"
    provision()
    assert (state(), the_provision().attempts, the_provision().last_error) == ("granted", 0, "")
    assert len({attempt for _, attempt in shelf.heard}) == 1, "the target can tell that it is the same intent"
    assert json.loads(Entry.objects.get(event="provision.granted").data)["attempts"] == 5


def test_a_target_that_is_away_is_not_asked_by_every_row(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    items = [{"server": "git", "tools": [{"name": f"git_{number}"} for number in range(20)]}]
    granted(cast, seconds=3600, items=items)
    with shelf.down():
        provision()
        provision()
    assert len(shelf.heard) == 1
    clock.shift(3)
    assert provision() == 20
    assert len(shelf.there) == 20


def test_one_target_that_is_away_does_not_hold_up_others(cast: Cast, target: Target, shelf: Shelf) -> None:
    Target.objects.create(slug="broken", kind="nobody-brings-it", match="server:git")
    granted(cast)
    provision()
    states = dict(Provision.objects.values_list("target__slug", "state"))
    assert states == {"shelf": "granted", "broken": "granting"}
    assert "No installed package" in Provision.objects.get(target__slug="broken").last_error


def test_a_grant_is_given_up_cleaned_away_and_said_so(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    granted(cast, seconds=7200)
    with shelf.down():
        failing_times(clock, GRANT_TRIES)
    row = the_provision()
    assert (row.gave_up, row.attempts) == (True, GRANT_TRIES)
    provision()
    assert (state(), the_provision().last_error) == ("revoked", "It is down.")
    assert [what for what, _ in shelf.heard] == ["grant"] * GRANT_TRIES + ["revoke"]
    assert told() == ["failed", "failed", "revoked"]
    clock.shift(1000)
    with gains():
        provision()
    assert try_again(the_provision())
    assert provision() == 1
    assert state() == "granted"


def test_what_the_target_refuses_is_given_up_at_once(cast: Cast, target: Target, shelf: Shelf) -> None:
    shelf.trouble = Permanent("No such\0 group.")
    granted(cast)
    provision()
    assert (the_provision().gave_up, the_provision().last_error) == (True, "No such\\u{0} group.")
    shelf.trouble = None
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_a_new_grant_is_a_new_chance(cast: Cast, target: Target, shelf: Shelf) -> None:
    shelf.trouble = Permanent("Not now.")
    granted(cast)
    provision()
    shelf.trouble = None
    granted(cast)
    provision()
    assert (state(), len(shelf.there)) == ("granted", 1)


def test_a_grant_that_ends_while_it_cannot_be_given_is_taken_away_all_the_same(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    """What is not known to have happened may have happened."""
    grant = granted(cast, seconds=20)
    with shelf.down():
        failing_times(clock, 4)
    assert the_provision().next_try_at == grant.expires_at, "however long the pause would be"
    clock.at(grant.expires_at)
    provision()
    assert (state(), shelf.heard[-1][0]) == ("revoked", "revoke")


def test_a_revoke_is_tried_for_ever_and_people_are_called_once(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock, caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:  # fmt: skip
    grant = granted(cast, seconds=60)
    provision()
    revoked(grant)
    before = REGISTRY.get_sample_value("jitaccess_provision_alarms_total") or 0
    with shelf.down(), django_capture_on_commit_callbacks(execute=True):
        failing_times(clock, ALARM_TRIES + 3)
    row = the_provision()
    assert (row.state, row.attempts, row.alarmed) == ("revoking", ALARM_TRIES + 3, True)
    assert row.next_try_at is not None
    assert told() == ["granted", "failed", "failed"]
    failures = Entry.objects.filter(event="provision.failed").order_by("uid")
    assert [json.loads(entry.data)["alarm"] for entry in failures] == [False, True]
    assert REGISTRY.get_sample_value("jitaccess_provision_alarms_total") == before + 1
    assert caplog.text.count("ALARM") == 1
    provision()
    assert (state(), shelf.there, the_provision().alarmed) == ("revoked", {}, False)


def test_the_pause_of_a_revoke_is_capped() -> None:
    assert [work.backoff(attempts).total_seconds() for attempts in (1, 2, 9, 10, 1000)] == [2, 4, 512, 600, 600]


def test_wanted_again_before_it_could_be_taken_away_it_is_given_again(cast: Cast, target: Target, shelf: Shelf) -> None:
    first = granted(cast)
    provision()
    revoked(first)
    with shelf.down():
        provision()
    assert state() == "revoking"
    Target.objects.update(away_until=None)
    granted(cast)
    provision()
    assert (state(), len(shelf.there)) == ("granted", 1)


def test_a_target_that_says_done_and_is_not_believed(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    grant = granted(cast, seconds=3600)
    shelf.lying = True
    provision()
    assert (state(), told()) == ("granting", ["failed"])
    assert "it is not there" in the_provision().last_error
    shelf.lying = False
    clock.shift(3)
    provision()
    assert state() == "granted"
    shelf.lying = True
    revoked(grant)
    provision()
    assert (state(), len(shelf.there)) == ("revoking", 1)
    assert "it is still there" in the_provision().last_error
    assert len({attempt for _, attempt in shelf.heard}) == 3, "a receiver of repetitions must not swallow the next try"
    shelf.lying = False
    clock.shift(10)
    provision()
    assert (state(), shelf.there) == ("revoked", {})


def test_what_cannot_be_seen_is_not_believed_either(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    shelf.blind = True
    provision()
    assert (state(), told()) == ("granting", ["failed"])
    revoked(grant)
    provision()
    assert state() == "revoking"


def test_a_provisioner_with_a_bug_is_one_that_failed(cast: Cast, target: Target, shelf: Shelf) -> None:
    shelf.trouble = ZeroDivisionError("by a newcomer")
    granted(cast)
    provision()
    assert (state(), the_provision().last_error) == ("granting", "ZeroDivisionError: by a newcomer")


def test_the_intent_is_on_record_before_the_target_hears_of_it(cast: Cast, target: Target, shelf: Shelf) -> None:
    seen: list[tuple[str, bool]] = []
    shelf.meanwhile = lambda: seen.append((state(), the_provision().owner is not None))
    grant = granted(cast)
    provision()
    revoked(grant)
    provision()
    assert seen == [("granting", True), ("revoking", True)]


def test_nobody_else_touches_it_meanwhile(cast: Cast, target: Target, shelf: Shelf) -> None:
    grant = granted(cast)
    pk = the_provision().pk

    def meanwhile() -> None:
        shelf.meanwhile = None
        revoked(grant)
        assert not attempt(pk)

    shelf.meanwhile = meanwhile
    provision()
    assert [what for what, _ in shelf.heard] == ["grant"]
    assert state() == "granted"
    provision()
    assert (state(), shelf.there) == ("revoked", {}), "what happened meanwhile is looked at right after"


def test_what_a_dead_worker_began_is_done_by_another_when_its_lease_is_over(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    class Killed(BaseException):
        pass

    granted(cast, seconds=3600)
    shelf.trouble = Killed()  # type: ignore[assignment]
    with pytest.raises(Killed):
        provision()
    shelf.trouble = None
    row = the_provision()
    assert (row.state, row.owner is not None) == ("granting", True)
    assert provision() == 0, "it may still be alive"
    clock.shift(LEASE.total_seconds() + 1)
    assert provision() == 1
    assert (state(), len(shelf.there)) == ("granted", 1)
    assert len({attempt for _, attempt in shelf.heard}) == 1


def test_a_worker_whose_lease_is_over_is_not_believed(cast: Cast, target: Target, shelf: Shelf, clock: Clock) -> None:
    """It was frozen between touching the target and writing that down; meanwhile the grant ended and all is gone."""
    grant = granted(cast, seconds=3600)
    pk = the_provision().pk

    def frozen() -> None:
        shelf.meanwhile = None
        clock.shift(LEASE.total_seconds() + 1)
        revoked(grant)
        assert attempt(pk)

    shelf.meanwhile = frozen
    assert not attempt(pk)
    assert state() == "revoked"
    assert told() == ["revoked"]


def test_switched_off_it_gives_nothing_new_and_takes_away_what_it_gave(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    first, second = granted(cast), granted(cast, items=[{"kind": "role", "role": "report-writer"}])
    attempt(provisions_of(first.pk)[0].pk)
    Target.objects.update(enabled=False)
    granted(cast, items=[{"kind": "role", "role": "report-reader"}])
    provision()
    assert list(shelf.there.values()) == ["tool:git/git_commit"]
    assert provisions_of(second.pk)[0].state == "none"
    revoked(first)
    provision()
    assert shelf.there == {}
    Target.objects.update(enabled=True)
    clock.shift(61)
    provision()
    assert list(shelf.there.values()) == ["role:report-writer"]


def test_claims_and_ends_are_written_in_the_transaction_of_the_grant(cast: Cast, target: Target) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        granted(cast)
        raise RuntimeError
    assert not Provision.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_nothing_can_be_claimed(cast: Cast, target: Target) -> None:
    grant = granted(cast)
    for service in (begin, wind_up):
        with pytest.raises(RuntimeError, match="inside the transaction"):
            service(grant)


def test_beginning_twice_claims_once(cast: Cast, target: Target) -> None:
    grant = granted(cast)
    with transaction.atomic():
        begin(grant, COMMIT)
    assert (Provision.objects.count(), Claim.objects.count()) == (1, 1)


def test_what_a_grant_gives_where() -> None:
    items: list[dict[str, Any]] = [
        {"server": "git", "tools": [{"name": "git_add"}, {"name": "git_commit"}]},
        {"kind": "call", "server": "git", "tools": [{"name": "git_push"}],
         "arguments": {"mode": "exact", "digest": "sha256:12", "value": {}}},
        {"kind": "tools", "server": "crm", "tools": [{"name": "find"}], "arguments": {"mode": "any"}},
        {"kind": "role", "role": "report-writer", "role_id": str(uuid7()), "version": 3},
        {"kind": "database", "database": "shop", "objects": ["public.a", "public.b"], "privileges": ["select"]},
    ]  # fmt: skip
    assert [(named.kind, named.of, named.name) for named in entitlements_of(items)] == [
        ("server", "git", "tool:git/git_add"),
        ("server", "git", "tool:git/git_commit"),
        ("server", "git", "call:git/git_push/sha256:12"),
        ("server", "crm", "tool:crm/find"),
        ("role", "report-writer", "role:report-writer"),
        ("database", "shop", "database:shop/select/public.a"),
        ("database", "shop", "database:shop/select/public.b"),
    ]
    with refused("provisioning.item", "spaceship"):
        list(entitlements_of([{"kind": "spaceship"}]))


def test_two_schemas_of_arguments_are_two_entitlements() -> None:
    def name(schema: dict[str, Any]) -> str:
        item = {"server": "git", "tools": [{"name": "t"}], "arguments": {"mode": "schema", "schema": schema}}
        return next(entitlements_of([item])).name

    assert name({"a": 1, "b": 2}) == name({"b": 2, "a": 1})
    assert name({"a": 1}) != name({"a": 2})
    assert name({"a": 1}).startswith("tool:git/t/sha256:")


def test_only_targets_that_match_are_touched(cast: Cast, target: Target) -> None:
    Target.objects.create(slug="crm", kind="shelf", match="server:crm-*\nrole:^report-.*$")
    Target.objects.create(slug="none", kind="shelf", match="")
    grant = granted(cast, items=[*COMMIT, {"kind": "role", "role": "report-writer"}])
    planned = [
        (one.slug, named.name) for one, named in plan_for(grant, [*COMMIT, {"kind": "role", "role": "report-writer"}])
    ]
    assert sorted(planned) == [
        ("crm", "role:report-writer"),
        ("shelf", "role:report-writer"),
        ("shelf", "tool:git/git_commit"),
    ]


@pytest.mark.parametrize("match", ["git", "tool:git", "server:^unclosed", "server:"])
def test_a_match_that_cannot_be_read_is_refused(cast: Cast, target: Target, match: str) -> None:
    Target.objects.update(match=match)
    request = cast.submit()
    with refused("provisioning.match"):
        plan_for(Grant(request=request), COMMIT)


def test_without_targets_it_costs_one_query(cast: Cast, django_assert_num_queries: Any) -> None:
    grant = granted(cast)
    with transaction.atomic(), django_assert_num_queries(1):
        assert begin(grant) == []
    with transaction.atomic(), django_assert_num_queries(1):
        assert wind_up(grant) == 0


def test_the_database_refuses_rows_that_no_code_should_make(cast: Cast, target: Target) -> None:
    granted(cast)
    values = Provision.objects.values().get()
    for changes in ({"owner": uuid7()}, {"owner": uuid7(), "lease_until": now()}, {"lease_until": now()}):
        with pytest.raises(DatabaseError), transaction.atomic():
            Provision.objects.update(**changes)
    with pytest.raises(DatabaseError), transaction.atomic():
        Provision.objects.create(**(values | {"id": uuid7()}))


def test_every_direction_from_every_state() -> None:
    def way(state: State, *, wanted: bool, **more: bool) -> State | None:
        return work.direction(Provision(state=state, **more), wanted=wanted)

    assert {state: way(state, wanted=True) for state in State} == {
        "none": "granting", "granting": "granting", "granted": None, "revoking": "granting", "revoked": "granting",
    }  # fmt: skip
    assert {state: way(state, wanted=False) for state in State} == {
        "none": None, "granting": "revoking", "granted": "revoking", "revoking": "revoking", "revoked": None,
    }  # fmt: skip
    assert all(
        way(state, wanted=True, gave_up=True) == way(state, wanted=False, gave_up=wanted)
        for state in State
        for wanted in (True, False)
    )


def test_the_folder_is_worked_like_any_other(cast: Cast, settings: Any, tmp_path: Path) -> None:
    settings.VAR = tmp_path
    Target.objects.create(slug="laptops", kind="folder", match="server:git")
    grant = granted(cast)
    provision()
    (path,) = (tmp_path / "provisioned" / "laptops").iterdir()
    assert json.loads(path.read_text()) == {"entitlement": "tool:git/git_commit", "agent": "demo-agent", "user": ""}
    revoked(grant)
    provision()
    assert not path.exists()
