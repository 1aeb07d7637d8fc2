"""What may be asked for and who approves: what could never work cannot be saved."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from jitaccess.policy.models import ApprovalPolicy, ApproverGroup, Requestable
from tests.admin.conftest import World, errors, save, url


def add(client: Client, **group: Any) -> Any:
    fields = {f"groups-0-{name}": value for name, value in group.items()}
    return save(client, url(ApprovalPolicy, "add"), name="strict", **fields)


def test_a_policy_without_a_group_is_refused(world: World, client: Client):
    assert "Add at least one group" in errors(add(client))
    assert not ApprovalPolicy.objects.filter(name="strict").exists()


def test_the_last_group_cannot_be_removed(world: World, client: Client):
    assert "Add at least one group" in errors(save(client, url(world.policy), **{"groups-0-DELETE": "on"}))
    assert ApproverGroup.objects.count() == 1


def test_a_group_with_nobody_in_it_is_refused(world: World, client: Client):
    assert "Nobody active is in this group" in errors(add(client, name="empty"))
    type(world.bob).objects.update(is_active=False)
    type(world.ada).objects.filter(username="ada").update(is_active=True)
    assert "Nobody active" in errors(add(client, name="gone", users=[world.bob.pk], teams=[world.team.pk]))
    assert not ApprovalPolicy.objects.filter(name="strict").exists()


@pytest.mark.parametrize("quorum", ["0", "-1", "21", ""])
def test_a_quorum_of_nobody_is_refused(quorum: str, world: World, client: Client):
    assert "quorum" in errors(add(client, name="leads", quorum=quorum, users=[world.bob.pk]))
    assert not ApprovalPolicy.objects.filter(name="strict").exists()


def test_a_quorum_that_nobody_can_meet_is_refused_with_what_to_change(world: World, client: Client):
    said = errors(add(client, name="leads", quorum=3, users=[world.bob.pk], teams=[world.team.pk]))
    assert "3 people must approve, but only 2 active people are in this group" in said
    assert "lower the quorum to 2" in said
    assert not ApprovalPolicy.objects.filter(name="strict").exists()


def test_people_are_counted_once_however_they_are_in_a_group(world: World, client: Client):
    assert add(client, name="leads", quorum=2, users=[world.bob.pk], teams=[world.team.pk]).status_code == 302
    assert ApproverGroup.objects.get(policy__name="strict").quorum == 2


def test_a_group_whose_people_left_must_be_mended_before_its_policy_is_saved(world: World, client: Client):
    type(world.bob).objects.filter(pk=world.bob.pk).update(is_active=False)
    assert "Nobody active" in errors(save(client, url(world.policy), pending_minutes=5))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Name tools or choose access classes"),
        ({"tools": " , ,"}, "Name tools or choose access classes"),
        ({"tools": "git_*, ^(, x"}, "is not usable"),
        ({"tools": "^open"}, "starts with ^ and ends with $"),
        ({"access": ["admin"]}, "not one of the available choices"),
        ({"tools": "a", "max_minutes": 0}, "max_minutes"),
        ({"tools": "a\0b"}, "Null characters"),
    ],
)
def test_a_requestable_that_means_nothing_is_refused(fields: dict[str, Any], said: str, world: World, client: Client):
    page = url(Requestable, "add")
    assert said in errors(save(client, page, server=world.server.pk, policy=world.policy.pk, **fields))
    assert Requestable.objects.count() == 1


def test_a_requestable_is_kept_as_lists(world: World, client: Client):
    fields = {"tools": "git_*,^x[0-9]+$ ,", "access": ["write", "destructive"]}
    save(client, url(Requestable, "add"), server=world.server.pk, policy=world.policy.pk, **fields)
    row = Requestable.objects.exclude(pk=world.requestable.pk).get()
    assert (row.tools, row.access) == ("git_*, ^x[0-9]+$", "write, destructive")
    assert client.get(url(row)).context["adminform"].form["access"].value() == ["write", "destructive"]
