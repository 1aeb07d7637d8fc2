"""A policy against the people there are: the unknown is refused, the fragile is warned about with what to change."""

from __future__ import annotations

import pytest

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.review import World, warnings
from tests.policy.approval.documents import parse, rule

pytestmark = pytest.mark.pure

WORLD = World(
    users={"anna", "ben", "cleo"},
    inactive={"dora"},
    teams={"ops": {"anna", "ben"}, "empty": set()},
    schedules={"night": {"cleo"}, "nobody": set()},
)


def said(people: str, quorum: int = 1, more: str = "", world: World = WORLD) -> list[str]:
    stages = f"stages: [{{groups: [{{name: g, people: [{people}], quorum: {quorum}}}]}}]"
    return warnings(parse(rule(more, stages=stages)), world)


def test_a_group_with_people_to_spare_is_fine():
    assert said("team:ops") == []
    assert said("team:ops, user:cleo", quorum=2) == []


@pytest.mark.parametrize("people", ["user:zoe", "team:gone", "schedule:day"])
def test_who_does_not_exist_is_refused_with_the_line(people: str):
    with pytest.raises(Invalid) as caught:
        said(people)
    assert caught.value.code == "policy.unknown"
    assert caught.value.params["line"] == 7


def test_an_unknown_fallback_is_refused_too():
    with pytest.raises(Invalid):
        said("team:ops", more="fallback: {name: f, people: [team:gone]}")


@pytest.mark.parametrize(
    ("people", "quorum", "count"),
    [("team:empty", 1, 0), ("team:ops, user:anna", 3, 2), ("schedule:nobody", 1, 0), ("schedule:night", 2, 1)],
)
def test_a_quorum_that_too_few_people_are_left_for_is_told(people: str, quorum: int, count: int):
    [warning] = said(people, quorum)
    assert f"only {count} active" in warning
    assert "add people" in warning
    assert (f"lower the quorum to {count}" in warning) is (count > 0)


def test_somebody_who_left_is_told():
    inactive, few = said("user:dora")
    assert "dora is not active" in inactive
    assert "only 0 active people" in few


def test_a_group_that_needs_everybody_cannot_ask_for_itself():
    [warning] = said("team:ops", quorum=2)
    assert "none of them could ask for themselves" in warning
    assert "fallback" in warning


def test_a_fallback_takes_over_from_a_group_that_asks_for_itself():
    assert said("user:anna", more="fallback: {name: f, people: [team:ops]}") == []


def test_a_fallback_of_one_person_is_told():
    [warning] = said("team:ops", more="fallback: {name: f, people: [user:cleo]}")
    assert "group f" in warning


@pytest.mark.parametrize(
    ("selector", "world", "cure"),
    [
        ("server-owners", World(servers_without_owners=["shop", "files"]), "no owner team: files, shop."),
        ("role-owners", World(roles_without_owners=["admin"]), "no owner team: admin."),
        ("manager", World(owners_without_manager=list("abcdefg")), "no manager: a, b, c, d, e and 2 more."),
    ],
)
def test_owners_and_managers_that_are_missing_are_told(selector: str, world: World, cure: str):
    [warning] = said(selector, world=world)
    assert warning.endswith(cure)
    assert said(selector) == []


def test_approving_everything_without_anybody_is_told():
    [warning] = warnings(parse("name: a\nauto_approve: true"), WORLD)
    assert "without asking anybody" in warning


def test_a_policy_that_leaves_requests_over_is_told():
    [warning] = warnings(parse(rule("when: request.minutes < 5", stages="auto_approve: true")), WORLD)
    assert "match no rule are refused" in warning
