"""Locks and break-glass rights in the admin."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Team, User
from jitaccess.policy.locks import live_locks, lock
from jitaccess.policy.models import BreakGlass, Lock, RoleBinding
from jitaccess.store.clock import now
from requests_app.services.break_glass import break_glass
from tests.admin.conftest import World, act, errors, save, url
from tests.cast import OPERATOR

Fresh = Callable[[], list[Entry]]


def test_a_lock_is_made_by_name_and_lifted_by_an_action_with_one_entry_each(
    world: World, client: Client, new_entries: Fresh
) -> None:
    assert save(client, url(Lock, "add"), kind="agent", name="bot", reason="It runs wild").status_code == 302
    made = Lock.objects.get()
    assert (made.target, made.target_name, made.created_by_name) == (world.agent.pk, "bot", "ada")
    assert [(entry.event, entry.user) for entry in new_entries()] == [("lock.created", world.ada.pk)]
    page = client.get(url(Lock, "changelist")).content.decode()
    assert "in force" in page
    assert "It runs wild" in client.get(url(made)).content.decode()
    act(client, Lock, "lift", made)
    assert [entry.event for entry in new_entries()] == ["lock.lifted"]
    assert "lifted by ada" in client.get(url(Lock, "changelist")).content.decode()
    page = act(client, Lock, "lift", made)
    assert new_entries() == []
    assert not live_locks().exists()


def test_everything_and_a_grant_are_locked(world: World, client: Client) -> None:
    grant = RoleBinding.objects.get(origin="grant").origin_id
    save(client, url(Lock, "add"), kind="grant", name=str(grant), reason="x")
    save(client, url(Lock, "add"), kind="everything", name="", reason="x")
    assert set(Lock.objects.values_list("kind", "target")) == {("grant", grant), ("everything", None)}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"kind": "agent", "name": "nobody"}, "There is no agent"),
        ({"kind": "everything", "name": "bot"}, "has no target"),
        ({"kind": "agent", "name": ""}, "There is no agent"),
        ({"kind": "tool", "name": "x"}, "Select a valid choice"),
        ({"reason": ""}, "required"),
        ({"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}, "past"),
    ],
)
def test_mistakes_are_said_at_their_field(
    form: dict[str, str], said: str, world: World, client: Client, new_entries: Fresh
) -> None:
    values = {"kind": "agent", "name": "bot", "reason": "x", "expires_at_0": "", "expires_at_1": ""}
    assert said in errors(save(client, url(Lock, "add"), **values | form))
    assert not Lock.objects.exists()
    assert new_entries() == []


def test_a_second_equal_lock_is_refused_on_the_page(world: World, client: Client, new_entries: Fresh) -> None:
    lock(kind="agent", target=world.agent.pk, reason="x", operator=OPERATOR, expires_at=now() + timedelta(hours=1))
    new_entries()
    page = save(client, url(Lock, "add"), kind="agent", name="bot", reason="y")
    assert "was locked by operator" in client.get(page.url).content.decode()
    assert new_entries() == []


def test_locks_are_neither_edited_nor_deleted_and_lifting_needs_the_permission(world: World, client: Client) -> None:
    made = lock(kind="agent", target=world.agent.pk, reason="x", operator=OPERATOR)
    for page in (url(made), url(made, "delete")):
        assert client.post(page, {"post": "yes", "reason": "y"}).status_code == 403
    act(client, Lock, "delete_selected", made, post="yes")
    User.objects.filter(pk=world.bob.pk).update(is_staff=True)
    world.bob.user_permissions.set(Permission.objects.filter(codename__in=["view_lock", "add_lock"]))
    clerk = Client()
    clerk.force_login(User.objects.get(pk=world.bob.pk))
    act(clerk, Lock, "lift", made)
    assert list(live_locks()) == [made]


def test_a_break_glass_right_is_recorded_and_shown_with_its_reviews(
    world: World, client: Client, new_entries: Fresh
) -> None:
    form = {
        "name": "look-inside",
        "role": str(world.role.pk),
        "users": [str(world.owner.pk)],
        "max_minutes": "30",
        "reviewers": str(world.team.pk),
    }
    lonely = Team.objects.create(name="lonely")
    assert "two are active" in errors(save(client, url(BreakGlass, "add"), **form | {"reviewers": str(lonely.pk)}))
    assert "nobody would have" in errors(save(client, url(BreakGlass, "add"), **form | {"users": None}))
    assert "480" in errors(save(client, url(BreakGlass, "add"), **form | {"max_minutes": "481"}))
    assert new_entries() == []
    assert save(client, url(BreakGlass, "add"), **form).status_code == 302
    (entry,) = new_entries()
    assert json.loads(entry.data)["kind"] == "break-glass right"
    right = BreakGlass.objects.get()
    save(client, url(right), name="another", max_minutes="20")
    right.refresh_from_db()
    assert (right.name, right.max_minutes) == ("look-inside", 20)
    grant = break_glass(user=world.owner, agent=world.agent, right=right.pk, reason="It is down")
    page = client.get("/admin/jit_requests/review/")
    assert [row.grant for row in page.context["cl"].result_list] == [grant]
    assert client.post(url(grant.review), {"note": "x"}).status_code == 403
