"""Break-glass: at once for those with the right, told to everybody who was skipped, and reviewed afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.errors import Conflict
from jitaccess.kernel.ids import uuid7
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.models import Delivery
from jitaccess.policy.locks import lock
from jitaccess.policy.models import BreakGlass, RoleBinding
from jitaccess.policy.services import save_role
from requests_app import reviews
from requests_app.digests import request_digest
from requests_app.models import Grant, Review
from requests_app.services.break_glass import break_glass, finish_review, stop_break_glass
from requests_app.services.end import revoke_grant
from tests.cast import OPERATOR, Cast, person
from tests.clocks import Clock
from tests.races import race
from tests.requests_app.ledger import gains, refused

pytestmark = pytest.mark.django_db

FIXER = """\
kind: role
version: v1
metadata: {name: fixer}
spec:
  allow:
    - servers: [git]
      tools: ["git_*"]
"""


@pytest.fixture
def right(cast: Cast) -> BreakGlass:
    """olga may give her agent everything on git; the team "watch" (dora, and olga herself) reviews it."""
    watch = Team.objects.create(name="watch")
    watch.members.set([person("dora"), cast.olga])
    role = save_role(document=FIXER, operator=OPERATOR)
    made = BreakGlass.objects.create(name="fix-git", role=role, max_minutes=30, reviewers=watch)
    made.users.add(cast.olga)
    return made


def use(cast: Cast, held: BreakGlass, user: User | None = None, **options: Any) -> Grant:
    values: dict[str, Any] = {"agent": cast.agent, "right": held.pk, "reason": "The site is down"} | options
    return break_glass(user=user or cast.olga, **values)


def dora() -> User:
    return User.objects.get(username="dora")


def test_one_use_is_a_request_a_grant_a_binding_a_review_and_two_entries(cast: Cast, right: BreakGlass) -> None:
    with gains("break_glass.used", "grant.activated"):
        grant = use(cast, right, seconds=600, source="127.0.0.1")
    asked = grant.request
    assert (asked.kind, asked.status, asked.closed_by_name, asked.filed_by) == (
        "break_glass", "approved", "olga", cast.olga,
    )  # fmt: skip
    assert asked.parsed_items == [
        {"kind": "role", "role": "fixer", "role_id": str(right.role_id), "version": right.role.head}
    ]
    asked.refresh_from_db()
    assert asked.digest == request_digest(asked)
    binding = RoleBinding.objects.get(origin_id=grant.pk)
    assert (binding.origin, binding.role_version, binding.agent, binding.user) == (
        "break_glass", 1, cast.agent, cast.olga,
    )  # fmt: skip
    assert binding.expires_at == grant.expires_at == grant.latest
    assert (grant.expires_at - grant.starts_at).total_seconds() == 600
    assert Review.objects.get(grant=grant, done_at=None).team == right.reviewers_id
    entry = Entry.objects.get(event="break_glass.used")
    assert (entry.user, entry.agent, entry.request, entry.grant) == (cast.olga.pk, None, asked.pk, grant.pk)
    assert json.loads(entry.data)["reason"] == "The site is down"


def test_it_is_for_this_agent_on_behalf_of_this_person_only(cast: Cast, right: BreakGlass) -> None:
    grant = use(cast, right)
    for_olga = cast.principal(user=cast.olga)
    assert cast.verdict("git_reset", for_olga).allowed
    assert not cast.verdict("git_reset").allowed
    cast.agent.users.add(cast.anna)
    assert not cast.verdict("git_reset", cast.principal(user=cast.anna)).allowed
    revoke_grant(grant_id=grant.pk, user=cast.olga)
    assert not cast.verdict("git_reset", for_olga).allowed
    assert RoleBinding.objects.get(origin_id=grant.pk).ended_at


def test_it_ends_with_its_time(cast: Cast, right: BreakGlass, clock: Clock) -> None:
    grant = use(cast, right)
    assert (grant.expires_at - grant.starts_at).total_seconds() == 1800
    clock.shift(1801)
    assert not cast.verdict("git_reset", cast.principal(user=cast.olga)).allowed


def test_a_member_of_a_team_with_the_right_may_for_an_agent_that_acts_for_them(cast: Cast, right: BreakGlass) -> None:
    right.teams.add(cast.team)
    with refused("agent.unknown"):
        use(cast, right, cast.anna)
    cast.agent.users.add(cast.anna)
    assert use(cast, right, cast.anna).user == cast.anna


def test_what_does_not_hold_is_refused_and_leaves_nothing(cast: Cast, right: BreakGlass) -> None:
    cast.agent.users.add(cast.carl)
    for user, options, code in (
        (cast.carl, {}, "break_glass.unknown"),
        (cast.admin, {}, "break_glass.unknown"),
        (None, {"right": uuid7()}, "break_glass.unknown"),
        (None, {"reason": " \u200b"}, "break_glass.reason"),
        (None, {"reason": "x" * 2001}, "break_glass.reason"),
        (None, {"seconds": 59}, "break_glass.duration"),
        (None, {"seconds": 1801}, "break_glass.duration"),
    ):
        with refused(code):
            use(cast, right, user, **options)
    BreakGlass.objects.update(enabled=False)
    with refused("break_glass.unknown"):
        use(cast, right)
    BreakGlass.objects.update(enabled=True)
    set_agent_enabled(agent=Agent.objects.get(), enabled=False, operator=OPERATOR)
    with refused("agent.disabled"):
        use(cast, right)
    set_agent_enabled(agent=Agent.objects.get(), enabled=True, operator=OPERATOR)
    User.objects.filter(pk=cast.olga.pk).update(is_active=False)
    with refused("break_glass.unknown"):
        use(cast, right)
    assert not Review.objects.exists()
    assert not RoleBinding.objects.filter(origin="break_glass").exists()


@pytest.mark.parametrize("kind", ["agent", "user", "role", "everything"])
def test_a_lock_stands_above_it(kind: str, cast: Cast, right: BreakGlass) -> None:
    target = {"agent": cast.agent.pk, "user": cast.olga.pk, "role": right.role_id}.get(kind)
    lock(kind=kind, target=target, reason="a leak", operator=OPERATOR)
    with refused("lock.live", "operator made it: a leak"):
        use(cast, right)


def test_at_most_three_at_a_time(cast: Cast, right: BreakGlass, clock: Clock) -> None:
    grants = [use(cast, right) for _ in range(3)]
    with refused("break_glass.too_many"):
        use(cast, right)
    revoke_grant(grant_id=grants[0].pk, user=cast.olga)
    use(cast, right)
    clock.shift(1801)
    use(cast, right)


def test_an_overdue_review_closes_the_right_to_that_person_only(cast: Cast, right: BreakGlass, clock: Clock) -> None:
    grant = use(cast, right)
    right.users.add(cast.anna)
    cast.agent.users.add(cast.anna)
    clock.shift(7 * 86400 - 60)
    use(cast, right)
    clock.shift(120)
    with refused("break_glass.review_overdue", "watch has reviewed it"):
        use(cast, right)
    use(cast, right, cast.anna)
    finish_review(grant_id=grant.pk, reviewer=dora(), note="Fine.")
    use(cast, right)


def test_a_review_is_finished_once_by_a_reviewer_who_did_not_use_it(cast: Cast, right: BreakGlass) -> None:
    grant = use(cast, right)
    for user, code in ((cast.olga, "review.self"), (cast.anna, "review.unknown"), (cast.admin, "review.not_yours")):
        with refused(code):
            finish_review(grant_id=grant.pk, reviewer=user, note="x")
        assert not reviews.reviews_for(user).exists()
    with refused("review.note"):
        finish_review(grant_id=grant.pk, reviewer=dora(), note=" ")
    assert [review.grant for review in reviews.reviews_for(dora())] == [grant]
    with gains("break_glass.reviewed"):
        review = finish_review(grant_id=grant.pk, reviewer=dora(), note="Fine.", source="127.0.0.1")
    assert (review.done_by, review.note) == (dora(), "Fine.")
    assert not reviews.reviews_for(dora()).exists()
    with refused("review.done", "dora has reviewed this"):
        finish_review(grant_id=grant.pk, reviewer=dora(), note="y")
    User.objects.filter(username="dora").update(is_active=False)
    with refused("review.unknown"):
        finish_review(grant_id=grant.pk, reviewer=dora(), note="y")


def test_a_reviewer_ends_a_live_use_and_the_review_stays_open(cast: Cast, right: BreakGlass) -> None:
    grant = use(cast, right)
    for user, code in ((cast.anna, "review.unknown"), (cast.olga, "review.not_yours")):
        with refused(code):
            stop_break_glass(grant_id=grant.pk, reviewer=user)
    with gains("grant.revoked"):
        stop_break_glass(grant_id=grant.pk, reviewer=dora())
    assert not cast.verdict("git_reset", cast.principal(user=cast.olga)).allowed
    with refused("grant.ended"):
        stop_break_glass(grant_id=grant.pk, reviewer=dora())
    assert reviews.reviews_for(dora()).get().grant == grant


def test_when_the_reviewers_are_gone_a_superuser_can_finish_it(cast: Cast, right: BreakGlass) -> None:
    grant = use(cast, right)
    right.delete()
    Team.objects.get(name="watch").delete()
    with refused("review.unknown"):
        finish_review(grant_id=grant.pk, reviewer=dora(), note="y")
    assert finish_review(grant_id=grant.pk, reviewer=cast.admin, note="y").done_by == cast.admin


def test_reviewers_and_the_owner_are_told_but_not_who_did_it(cast: Cast, right: BreakGlass, settings: Any) -> None:
    settings.NOTIFY_CHANNELS = ["console"]
    right.users.add(cast.anna)
    cast.agent.users.add(cast.anna)
    grant = use(cast, right, cast.anna)
    finish_review(grant_id=grant.pk, reviewer=dora(), note="Fine.")
    while sequence() + fan_out():
        pass
    told = sorted(Delivery.objects.values_list("event", "user__username"))
    assert told == [
        ("break_glass.reviewed", "anna"),
        ("break_glass.reviewed", "olga"),
        ("break_glass.used", "dora"),
        ("break_glass.used", "olga"),
    ]


def test_who_decides_when_the_role_is_asked_for_is_told_too(cast: Cast, right: BreakGlass) -> None:
    requestable = FIXER + "  request: {max_duration: 1h, approval: review}\n"
    save_role(document=requestable, operator=OPERATOR, role=right.role)
    asked = use(cast, right).request
    assert [person.username for person in reviews.told_of(asked)] == ["anna", "bert", "dora", "olga"]


@pytest.mark.django_db(transaction=True)
def test_of_five_at_once_three_get_through_and_of_two_reviews_one(cast: Cast, right: BreakGlass) -> None:
    results = race(*[lambda: use(cast, right)] * 5)
    grants = [one for one in results if isinstance(one, Grant)]
    assert len(grants) == 3
    assert [one.code for one in results if isinstance(one, Conflict)] == ["break_glass.too_many"] * 2
    assert Entry.objects.filter(event="break_glass.used").count() == Review.objects.count() == 3
    watcher = dora()
    done = race(*[lambda: finish_review(grant_id=grants[0].pk, reviewer=watcher, note="x")] * 2)
    assert [one.code for one in done if isinstance(one, Conflict)] == ["review.done"]
    assert Entry.objects.filter(event="break_glass.reviewed").count() == 1
