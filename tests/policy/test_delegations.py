"""Handing over approvals: one's own, to somebody active, for a while, and no further."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid
from jitaccess.policy.delegations import delegate, delegators_of, end_delegation, standins_for
from jitaccess.policy.models import Delegation
from jitaccess.store.clock import now
from tests.cast import Cast
from tests.clocks import Clock
from tests.races import race

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def me(user: User) -> Actor:
    return Actor(user=user.pk, user_name=user.username)


def hand(person: User, to: User | None, **values: Any) -> Delegation:
    about: dict[str, Any] = {"ends_at": now() + DAY, "operator": me(person)} | values
    return delegate(person=person, to=to, **about)


def test_a_delegate_stands_in_until_the_end(cast: Cast, clock: Clock) -> None:
    hand(cast.anna, cast.carl, note=" on holiday ")
    standins = standins_for([cast.anna.pk, cast.bert.pk])
    assert standins.acting == {cast.carl.pk: {cast.anna.pk}}
    assert standins.away == {cast.anna.pk}
    assert delegators_of(cast.carl) == {cast.anna.pk}
    clock.shift(DAY.total_seconds() + 1)
    assert standins_for([cast.anna.pk]).acting == {}
    assert standins_for([cast.anna.pk]).away == set()
    assert delegators_of(cast.carl) == set()


def test_both_names_are_on_record(cast: Cast) -> None:
    row = hand(cast.anna, cast.carl)
    end_delegation(delegation=row, operator=me(cast.anna))
    made, ended = Entry.objects.filter(event__startswith="delegation.").order_by("uid")
    assert (made.event, made.user_name) == ("delegation.created", "anna")
    assert '"delegate":"carl"' in made.data
    assert '"person":"anna"' in made.data
    assert ended.event == "delegation.ended"
    assert '"delegate":"carl"' in ended.data


def test_nobody_acts_before_the_start(cast: Cast, clock: Clock) -> None:
    hand(cast.anna, cast.carl, starts_at=now() + DAY, ends_at=now() + 2 * DAY)
    assert delegators_of(cast.carl) == set()
    assert standins_for([cast.anna.pk]).away == set()
    clock.shift(DAY.total_seconds() + 1)
    assert delegators_of(cast.carl) == {cast.anna.pk}


def test_being_away_hands_nothing_to_anybody(cast: Cast) -> None:
    hand(cast.anna, None)
    standins = standins_for([cast.anna.pk])
    assert (standins.acting, standins.away) == ({}, {cast.anna.pk})


def test_the_delegate_of_a_delegate_stands_in_for_the_delegate_only(cast: Cast) -> None:
    hand(cast.anna, cast.bert)
    hand(cast.bert, cast.carl)
    assert delegators_of(cast.carl) == {cast.bert.pk}
    assert standins_for([cast.anna.pk]).acting == {cast.bert.pk: {cast.anna.pk}}


def test_a_delegate_who_left_stands_in_for_nobody(cast: Cast) -> None:
    hand(cast.anna, cast.carl)
    User.objects.filter(pk=cast.carl.pk).update(is_active=False)
    assert standins_for([cast.anna.pk]).acting == {}
    assert delegators_of(User.objects.get(pk=cast.carl.pk)) == set()


def test_nobody_stands_in_for_somebody_who_left(cast: Cast) -> None:
    hand(cast.anna, cast.carl)
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    assert standins_for([cast.anna.pk]).acting == {}
    assert delegators_of(cast.carl) == set()


def test_an_ended_delegation_is_over_at_once(cast: Cast) -> None:
    row = hand(cast.anna, cast.carl)
    end_delegation(delegation=row, operator=me(cast.carl))
    assert delegators_of(cast.carl) == set()
    with pytest.raises(Conflict):
        end_delegation(delegation=row, operator=me(cast.anna))
    assert Entry.objects.filter(event="delegation.ended").count() == 1


def test_only_those_it_is_about_or_an_admin_end_it(cast: Cast) -> None:
    row = hand(cast.anna, cast.carl)
    agent = Actor(agent=cast.agent.pk, user=cast.anna.pk, user_name="anna")
    for operator in (me(cast.bert), agent):
        with pytest.raises(Forbidden):
            end_delegation(delegation=row, operator=operator)
    assert delegators_of(cast.carl) == {cast.anna.pk}
    end_delegation(delegation=row, operator=me(cast.admin))
    assert delegators_of(cast.carl) == set()


def test_nobody_gives_away_what_is_somebody_elses(cast: Cast) -> None:
    agent = Actor(agent=cast.agent.pk, user=cast.anna.pk, user_name="anna")
    for operator in (me(cast.carl), me(cast.admin), agent, Actor.system("test")):
        with pytest.raises(Forbidden) as caught:
            hand(cast.anna, cast.carl, operator=operator)
        assert caught.value.code == "delegation.not_yours"
    assert not Delegation.objects.exists()
    assert not Entry.objects.filter(event="delegation.created").exists()


def test_nobody_stands_in_for_themselves(cast: Cast) -> None:
    with pytest.raises(Invalid, match="somebody else"):
        hand(cast.anna, cast.anna)


def test_an_inactive_person_neither_gives_nor_takes(cast: Cast) -> None:
    User.objects.filter(pk=cast.carl.pk).update(is_active=False)
    for person, to in ((cast.anna, cast.carl), (cast.carl, cast.anna)):
        with pytest.raises(Invalid, match="active"):
            hand(person, to)
    assert not Delegation.objects.exists()


@pytest.mark.parametrize(
    ("starts", "ends", "code"),
    [
        (0, 31, "delegation.too_long"),
        (0, 0, "delegation.window"),
        (2, 1, "delegation.window"),
        (-2, -1, "delegation.window"),
        (366, 367, "delegation.too_far"),
    ],
)
def test_a_window_is_short_and_ahead(cast: Cast, starts: int, ends: int, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        hand(cast.anna, cast.carl, starts_at=now() + starts * DAY, ends_at=now() + ends * DAY)
    assert caught.value.code == code
    assert not Delegation.objects.exists()


def test_a_start_in_the_past_is_now(cast: Cast) -> None:
    before = now()
    row = hand(cast.anna, cast.carl, starts_at=before - 60 * DAY, ends_at=before + 29 * DAY)
    assert row.starts_at >= before


def test_two_at_the_same_time_are_refused(cast: Cast) -> None:
    row = hand(cast.anna, cast.carl)
    with pytest.raises(Conflict) as caught:
        hand(cast.anna, cast.bert)
    assert caught.value.params["delegation"] == str(row.pk)
    hand(cast.anna, cast.bert, starts_at=row.ends_at, ends_at=row.ends_at + DAY)
    hand(cast.bert, cast.carl)
    assert Delegation.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_is_made(cast: Cast) -> None:
    results = race(lambda: hand(cast.anna, cast.carl), lambda: hand(cast.anna, cast.bert))
    assert sorted(type(one).__name__ for one in results) == ["Conflict", "Delegation"]
    assert Delegation.objects.count() == 1
    assert Entry.objects.filter(event="delegation.created").count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_ends_at_once_one_is_recorded(cast: Cast) -> None:
    row = hand(cast.anna, cast.carl)
    results = race(
        *(lambda who=who: end_delegation(delegation=row, operator=me(who)) for who in (cast.anna, cast.carl))
    )
    assert sorted(type(one).__name__ for one in results) == ["Conflict", "NoneType"]
    assert Entry.objects.filter(event="delegation.ended").count() == 1
