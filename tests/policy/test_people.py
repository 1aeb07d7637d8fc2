"""Whom the refs of a plan mean: as things are now, in few queries, and nobody when in doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from jitaccess.identity.models import Team, User
from jitaccess.policy.approval.document import Kind, Selector
from jitaccess.policy.models import OnCallSchedule
from jitaccess.policy.people import members_of, owner_team_of, refs_of, resolver
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from tests.cast import OPERATOR, READ_ONLY, Cast
from tests.clocks import Clock
from tests.policy.approval.documents import parse, rule

pytestmark = pytest.mark.django_db

START = datetime(2026, 3, 2, 8, tzinfo=UTC)


def names(people: frozenset[UUID]) -> set[str]:
    return set(User.objects.filter(pk__in=people).values_list("username", flat=True))


def means(ref: str, at: datetime | None = None) -> set[str]:
    return names(members_of([ref], at=at)[ref])


@pytest.fixture
def owned(cast: Cast) -> Cast:
    """The git server is the team's, the role read-only too; olga's manager is carl."""
    cast.server.owner_team = cast.team
    cast.server.save()
    cast.olga.manager = cast.carl
    cast.olga.save()
    document = READ_ONLY.replace("metadata: {", "metadata: {owner: team:demo, ")
    save_role(document=document, operator=OPERATOR, role=cast.read_only)
    return cast


def test_each_ref_means_active_people_now(owned: Cast) -> None:
    team = {"olga", "anna", "bert"}
    assert means(f"user:{owned.anna.pk}") == {"anna"}
    assert means(f"team:{owned.team.pk}") == team
    assert means(f"server:{owned.server.pk}") == team
    assert means(f"role:{owned.read_only.pk}") == team
    assert means(f"manager:{owned.olga.pk}") == {"carl"}


def test_whoever_left_is_meant_no_more(owned: Cast) -> None:
    User.objects.filter(username__in=["anna", "carl"]).update(is_active=False)
    owned.team.members.remove(owned.bert)
    for ref in (f"team:{owned.team.pk}", f"server:{owned.server.pk}", f"role:{owned.read_only.pk}"):
        assert means(ref) == {"olga"}
    assert means(f"user:{owned.anna.pk}") == set()
    assert means(f"manager:{owned.olga.pk}") == set()


def test_another_team_of_the_same_name_takes_nothing_over(cast: Cast) -> None:
    ref = f"team:{cast.team.pk}"
    Team.objects.filter(pk=cast.team.pk).update(name="demo-old")
    Team.objects.create(name="demo").members.add(cast.carl)
    assert means(ref) == {"olga", "anna", "bert"}


def test_what_is_gone_means_nobody(cast: Cast) -> None:
    gone = UUID(int=7)
    refs = [f"{kind}:{gone}" for kind in ("user", "team", "server", "role", "manager", "schedule", "planet")]
    assert members_of(refs) == {ref: frozenset() for ref in refs}
    assert members_of([]) == {}


def test_a_server_a_role_or_an_owner_without_anybody_means_nobody(cast: Cast) -> None:
    for ref in (f"server:{cast.server.pk}", f"role:{cast.read_only.pk}", f"manager:{cast.olga.pk}"):
        assert means(ref) == set()


def test_a_hundred_refs_cost_as_many_queries_as_a_few(owned: Cast, django_assert_max_num_queries: Any) -> None:
    people = [User.objects.create_user(f"p{n}") for n in range(30)]
    teams = [Team.objects.create(name=f"t{n}") for n in range(30)]
    for team, person in zip(teams, people, strict=True):
        team.members.add(person)
    refs = [f"user:{p.pk}" for p in people] + [f"team:{t.pk}" for t in teams] + [f"manager:{p.pk}" for p in people]
    refs += [f"server:{owned.server.pk}", f"role:{owned.read_only.pk}", f"schedule:{rota(['anna']).pk}"]
    with django_assert_max_num_queries(9):
        found = members_of(refs)
    assert all(len(found[f"team:{team.pk}"]) == 1 for team in teams)


def rota(people: Sequence[str], **values: Any) -> OnCallSchedule:
    about: dict[str, Any] = {"name": "ops", "starts_at": START, "hours": 12, "rota": json.dumps(people)} | values
    return OnCallSchedule.objects.create(**about)


def test_a_rota_means_whoever_is_on_call_at_that_time(cast: Cast) -> None:
    ref = f"schedule:{rota(['anna', 'bert']).pk}"
    assert [means(ref, START + timedelta(hours=hours)) for hours in (-1, 0, 12, 24)] == [
        set(),
        {"anna"},
        {"bert"},
        {"anna"},
    ]


def test_nobody_takes_over_from_somebody_on_call_who_left(cast: Cast) -> None:
    ref = f"schedule:{rota(['anna', 'bert']).pk}"
    User.objects.filter(username="anna").update(is_active=False)
    assert means(ref, START) == set()
    assert means(f"schedule:{rota(['nobody-such'], name='other').pk}", START) == set()


def test_what_a_url_said_counts_for_ten_minutes(cast: Cast, clock: Clock) -> None:
    kept = {"url": "https://calls.example/now", "rota": "[]", "starts_at": None, "fetched": '["anna","bert"]'}
    ref = f"schedule:{rota([], **kept, fetched_at=now()).pk}"
    assert means(ref) == {"anna", "bert"}
    clock.shift(9 * 60)
    assert means(ref) == {"anna", "bert"}
    clock.shift(2 * 60)
    assert means(ref) == set()


def test_what_was_never_fetched_means_nobody(cast: Cast) -> None:
    kept = {"url": "https://calls.example/now", "rota": "[]", "starts_at": None, "fetched": '["anna"]'}
    assert means(f"schedule:{rota([], **kept).pk}") == set()


def test_the_other_way_round_gives_the_same(owned: Cast) -> None:
    schedule = rota(["carl", "anna"])
    refs = [
        *(f"user:{person.pk}" for person in User.objects.all()),
        *(f"manager:{person.pk}" for person in User.objects.all()),
        *(f"team:{team.pk}" for team in Team.objects.all()),
        f"server:{owned.server.pk}",
        f"role:{owned.read_only.pk}",
        f"schedule:{schedule.pk}",
    ]
    members = members_of(refs, at=START)
    for person in User.objects.all():
        assert refs_of(person, at=START) == {ref for ref in refs if person.pk in members[ref]}
    both = {ref for ref in refs if members[ref] & {owned.anna.pk, owned.carl.pk}}
    assert refs_of(owned.anna, owned.carl, at=START) == both


def test_nothing_means_somebody_who_is_not_active(owned: Cast) -> None:
    User.objects.filter(pk=owned.anna.pk).update(is_active=False)
    assert refs_of(User.objects.get(pk=owned.anna.pk)) == set()


def test_selectors_become_ids_once(cast: Cast, django_assert_max_num_queries: Any) -> None:
    schedule = rota(["anna"])
    people = "user:anna, user:zoe, team:demo, team:gone, schedule:ops, server-owners, role-owners, manager"
    [only] = parse(rule(stages=f"stages: [{{groups: [{{name: g, people: [{people}]}}]}}]")).rules
    with django_assert_max_num_queries(3):
        resolve = resolver(only, servers=[cast.server.pk], roles=[cast.read_only.pk], owner=cast.olga.pk)
        refs = [ref for selector in only.stages[0].groups[0].people for ref in resolve(selector)]
    assert refs == [
        f"user:{cast.anna.pk}",
        f"team:{cast.team.pk}",
        f"schedule:{schedule.pk}",
        f"server:{cast.server.pk}",
        f"role:{cast.read_only.pk}",
        f"manager:{cast.olga.pk}",
    ]
    assert resolve(Selector(Kind.USER, "zoe")) == []


@pytest.mark.pure
@pytest.mark.parametrize(
    ("document", "team"),
    [
        (READ_ONLY.replace("metadata: {", "metadata: {owner: team:demo, "), "demo"),
        (READ_ONLY.replace("metadata: {", "metadata: {owner: user:anna, "), ""),
        (READ_ONLY.replace("metadata: {", "metadata: {owner: demo, "), ""),
        (READ_ONLY, ""),
        ("", ""),
        ("[", ""),
        ("metadata: {owner: [team:demo]}", ""),
    ],
)
def test_the_owner_of_a_role_is_a_team(document: str, team: str) -> None:
    assert owner_team_of(document) == team
