"""Changing people: the last admin stays, and nobody but an admin can become somebody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from tests.admin.conftest import World, act, errors, filled, save, url

Fresh = Callable[[], list[Entry]]
NEW = {"password1": "tr0ub4dor and three", "password2": "tr0ub4dor and three", "usable_password": "true"}


@pytest.fixture
def clerk(world: World) -> Client:
    """Staff with every right about people and groups, and no superuser."""
    person = User.objects.create_user("clerk", is_staff=True)
    rights = Permission.objects.filter(content_type__model__in=["user", "group"])
    person.user_permissions.set(rights.filter(content_type__app_label__in=["jit_identity", "auth"]))
    browser = Client()
    browser.force_login(person)
    return browser


def password_page(user: User) -> str:
    return reverse("admin:auth_user_password_change", args=[user.pk])


@pytest.mark.parametrize("flag", ["is_active", "is_staff", "is_superuser"])
def test_the_last_admin_is_not_demoted(world: World, client: Client, new_entries: Fresh, flag: str) -> None:
    User.objects.create_superuser("gone", is_active=False)
    assert "last active superuser" in errors(save(client, url(world.ada), **{flag: None}))
    world.ada.refresh_from_db()
    assert getattr(world.ada, flag)
    assert new_entries() == []


def test_the_last_admin_is_not_deleted(world: World, client: Client, new_entries: Fresh) -> None:
    assert "last active superuser" in client.get(url(world.ada, "delete")).content.decode()
    client.post(url(world.ada, "delete"), {"post": "yes"})
    response = act(client, User, "delete_selected", world.ada, User.objects.create_user("spare"), post="yes")
    assert "last active superuser" in response.content.decode()
    assert User.objects.filter(username__in=["ada", "spare"]).count() == 2
    assert new_entries() == []


def test_all_admins_at_once_are_not_deleted_but_one_of_two_is(world: World, client: Client) -> None:
    other = User.objects.create_superuser("other")
    act(client, User, "delete_selected", world.ada, other, post="yes")
    assert User.objects.filter(is_superuser=True).count() == 2
    act(client, User, "delete_selected", other, post="yes")
    assert list(User.objects.filter(is_superuser=True)) == [world.ada]


def test_one_of_two_admins_can_be_demoted_and_the_last_one_otherwise_changed(world: World, client: Client) -> None:
    other = User.objects.create_superuser("other")
    assert save(client, url(other), is_superuser=None).status_code == 302
    assert save(client, url(world.ada), email="ada@example.org").status_code == 302
    other.refresh_from_db()
    world.ada.refresh_from_db()
    assert (other.is_superuser, world.ada.email) == (False, "ada@example.org")


def test_the_last_admin_who_can_sign_in_is_neither_demoted_nor_loses_the_way_in(
    world: World, client: Client, new_entries: Fresh
) -> None:
    world.ada.set_password("a long one of hers")
    world.ada.save()
    client.force_login(world.ada)
    other = User.objects.create_superuser("other")  # without a password
    new_entries()
    assert "last active superuser who can sign in" in errors(save(client, url(world.ada), is_superuser=None))
    assert "who can sign in" in client.get(url(world.ada, "delete")).content.decode()
    off = {"usable_password": "false", "unset-password": "yes"}
    answer = client.post(password_page(world.ada), off, follow=True)
    assert "No active superuser could sign in any more" in answer.content.decode()
    world.ada.refresh_from_db()
    assert world.ada.is_superuser
    assert world.ada.check_password("a long one of hers")
    assert new_entries() == []
    assert client.get(url(world.ada)).status_code == 200, "and she is signed in as before"
    assert client.post(password_page(other), NEW | {"set-password": "yes"}).status_code == 302
    assert client.post(password_page(world.ada), off).status_code == 302
    world.ada.refresh_from_db()
    assert not world.ada.has_usable_password()


def test_staff_cannot_take_over_a_person(clerk: Client, world: World, new_entries: Fresh) -> None:
    before = User.objects.filter(pk=world.bob.pk).values().get()
    group = Group.objects.create(name="g")
    rights = {"is_staff": "on", "is_superuser": "on", "groups": [group.pk]}
    assert save(clerk, url(world.bob), username="rob", email="clerk@example.test", **rights).status_code == 302
    assert clerk.get(password_page(world.bob)).status_code == 403
    assert clerk.post(password_page(world.bob), NEW).status_code == 403
    assert User.objects.filter(pk=world.bob.pk).values().get() == before
    assert not world.bob.groups.exists()
    assert new_entries() == []


def test_nor_change_their_own_name_or_password_without_the_old_one(clerk: Client) -> None:
    me = User.objects.get(username="clerk")
    save(clerk, url(me), username="root", email="x@example.test")
    assert clerk.post(password_page(me), NEW).status_code == 403
    me.refresh_from_db()
    assert (me.username, me.email, me.has_usable_password()) == ("clerk", "", False)


def test_nor_give_rights_to_a_group_they_are_in(clerk: Client) -> None:
    group = Group.objects.create(name="clerks")
    User.objects.get(username="clerk").groups.add(group)
    everything = [str(pk) for pk in Permission.objects.values_list("pk", flat=True)]
    save(clerk, url(group), permissions=everything, name="people")
    group.refresh_from_db()
    assert group.name == "people"
    assert not group.permissions.exists()


def test_staff_can_still_add_a_person_and_change_the_rest(clerk: Client, world: World) -> None:
    assert save(clerk, url(User, "add"), username="zoe", **NEW).status_code == 302
    zoe = User.objects.get(username="zoe")
    assert (zoe.is_staff, zoe.is_superuser) == (False, False)
    assert save(clerk, url(world.bob), first_name="Bob", is_active=None).status_code == 302
    world.bob.refresh_from_db()
    assert (world.bob.first_name, world.bob.is_active) == ("Bob", False)


def test_a_superuser_can_change_all_of_it(client: Client, world: World) -> None:
    page = filled(client.get(url(world.bob)), username="rob", email="rob@example.test", is_staff="on")
    assert client.post(url(world.bob), page).status_code == 302
    assert client.post(password_page(world.bob), NEW).status_code == 302
    world.bob.refresh_from_db()
    assert (world.bob.username, world.bob.email, world.bob.is_staff) == ("rob", "rob@example.test", True)
    assert world.bob.check_password(NEW["password1"])


def test_nobody_is_made_their_own_manager(client: Client, world: World, new_entries: Fresh) -> None:
    assert "Nobody is their own manager" in errors(save(client, url(world.bob), manager=str(world.bob.pk)))
    world.bob.refresh_from_db()
    assert world.bob.manager is None
    assert not new_entries()
