"""Approval policies as rows: versions, names for life, and people who exist."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.policy.models import ApprovalPolicy, ApprovalPolicyVersion, OnCallSchedule
from jitaccess.policy.policies import document_of, policy_warnings, save_policy
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast
from tests.policy.approval.documents import parse, rule, text
from tests.races import race

pytestmark = pytest.mark.django_db


def group(people: str, quorum: int = 1) -> str:
    return f"stages: [{{groups: [{{name: g, people: [{people}], quorum: {quorum}}}]}}]"


STRICT = text(rule(stages=group("team:demo")))


def test_a_policy_is_saved_in_versions_that_are_kept(cast: Cast) -> None:
    policy = save_policy(document=STRICT, operator=OPERATOR)
    changed = STRICT + "# stricter\n"
    assert save_policy(document=changed, operator=OPERATOR, policy=policy).head == 2
    kept = ApprovalPolicyVersion.objects.filter(policy=policy).order_by("version")
    assert list(kept.values_list("version", "document", "saved_by")) == [
        (1, STRICT, "operator"),
        (2, changed, "operator"),
    ]
    said = [
        json.loads(entry.data)
        for entry in Entry.objects.filter(event="policy.saved").order_by("uid")
        if "two-person" in entry.data
    ]
    assert said == [{"policy": "two-person", "version": 1}, {"policy": "two-person", "version": 2}]


def test_saving_the_same_text_again_changes_nothing(cast: Cast) -> None:
    policy = save_policy(document=STRICT, operator=OPERATOR)
    before = Entry.objects.count()
    assert save_policy(document=STRICT, operator=OPERATOR, policy=policy).head == 1
    assert Entry.objects.count() == before


def test_a_policy_keeps_its_name(cast: Cast) -> None:
    policy = save_policy(document=STRICT, operator=OPERATOR)
    with pytest.raises(Conflict) as caught:
        save_policy(document=STRICT.replace("two-person", "other"), operator=OPERATOR, policy=policy)
    assert caught.value.code == "policy.renamed"
    with pytest.raises(Conflict) as caught:
        save_policy(document=STRICT, operator=OPERATOR)
    assert caught.value.code == "policy.exists"
    assert ApprovalPolicyVersion.objects.filter(policy=policy).count() == 1


def test_a_policy_names_people_who_exist(cast: Cast) -> None:
    for people in ("user:zoe", "team:gone", "schedule:night"):
        with pytest.raises(Invalid) as caught:
            save_policy(document=text(rule(stages=group(people))), operator=OPERATOR)
        assert caught.value.code == "policy.unknown"
    assert not ApprovalPolicy.objects.filter(name="two-person").exists()


def test_the_version_in_force_is_read_with_its_number(cast: Cast) -> None:
    policy = save_policy(document=STRICT, operator=OPERATOR)
    policy = save_policy(document=STRICT + "\n", operator=OPERATOR, policy=policy)
    assert document_of(ApprovalPolicy.objects.get(pk=policy.pk)).version == 2


def test_a_row_that_was_never_a_document_decides_nothing(cast: Cast) -> None:
    with pytest.raises(Invalid):
        document_of(ApprovalPolicy.objects.create(name="old"))


def warned(people: str, quorum: int = 1) -> list[str]:
    return policy_warnings(parse(rule(stages=group(people, quorum))))


def test_people_are_counted_once_and_only_if_they_are_active(cast: Cast) -> None:
    assert warned("team:demo, user:anna", 2) == []
    User.objects.filter(username="bert").update(is_active=False)
    assert "all 2 of its people must approve" in warned("team:demo, user:anna", 2)[0]
    assert "lower the quorum to 2" in warned("team:demo, user:anna", 3)[0]


def test_an_empty_team_is_warned_about(cast: Cast) -> None:
    Team.objects.create(name="empty")
    assert "only 0 active people" in warned("team:empty")[0]


def test_schedules_are_looked_into(cast: Cast) -> None:
    about: dict[str, Any] = {"starts_at": now()}
    OnCallSchedule.objects.create(name="rota", rota='["anna", "bert"]', **about)
    OnCallSchedule.objects.create(name="gone", rota='["nobody-such"]', **about)
    OnCallSchedule.objects.create(name="remote", url="https://calls.example/")
    assert "only 0 active" in warned("schedule:gone")[0]
    for name in ("rota", "remote"):
        assert not any("only 0" in one for one in warned(f"schedule:{name}"))


def test_owners_and_managers_that_are_missing_are_named(cast: Cast) -> None:
    assert "no owner team: git" in warned("server-owners")[0]
    assert "no owner team: read-only" in warned("role-owners")[0]
    assert "no manager: olga" in warned("manager")[0]
    cast.server.owner_team = cast.team
    cast.server.save()
    User.objects.filter(pk=cast.olga.pk).update(manager=cast.carl)
    assert warned("server-owners") == warned("manager") == []


@pytest.mark.django_db(transaction=True)
def test_two_saves_at_once_are_two_versions(cast: Cast) -> None:
    policy = save_policy(document=STRICT, operator=OPERATOR)
    texts = [f"{STRICT}# {n}\n" for n in range(2)]
    results = race(*(lambda said=said: save_policy(document=said, operator=OPERATOR, policy=policy) for said in texts))
    assert sorted(one.head for one in results) == [2, 3]
    policy.refresh_from_db()
    assert policy.document == policy.versions.get(version=3).document
    assert sorted(policy.versions.values_list("document", flat=True)) == sorted([STRICT, *texts])
