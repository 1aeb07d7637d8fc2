"""There is one sign-in, and staff only."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from jitaccess.identity.models import AccessToken, User
from tests.admin.conftest import World, save, url

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def with_password(world: World) -> None:
    world.ada.set_password(PASSWORD)
    world.ada.save()


def test_the_admin_sends_people_to_the_one_sign_in_page(world: World):
    response = Client().get("/admin/jit_identity/agent/", follow=True)
    assert response.redirect_chain[-1][0].startswith("/accounts/login/?next=/admin/")
    assert response.status_code == 200


def test_the_admins_own_login_form_takes_no_password(world: World):
    browser = Client()
    response = browser.post("/admin/login/", {"username": "ada", "password": PASSWORD})
    assert response.status_code == 302
    assert response.url.startswith("/accounts/login/")
    assert "_auth_user_id" not in browser.session


def test_signing_in_leads_back_to_the_page_that_was_wanted(world: World):
    browser = Client()
    login = browser.get("/admin/jit_identity/agent/", follow=True).redirect_chain[-1][0]
    response = browser.post(login, {"login": "ada", "password": PASSWORD}, follow=True)
    assert response.redirect_chain[-1][0] == "/admin/jit_identity/agent/"
    assert response.status_code == 200


def test_a_person_who_is_not_staff_cannot_enter(world: World):
    browser = Client()
    browser.force_login(world.bob)
    assert browser.get("/admin/login/").status_code == 403
    response = browser.get(url(world.agent), follow=True)
    assert response.status_code == 403
    assert "bot" not in response.content.decode()
    assert browser.post(f"{url(world.agent)[:-7]}issue-token/", {"minutes": 5}).status_code == 302
    assert AccessToken.objects.count() == 1


def test_ones_own_password_is_changed_in_one_place(client: Client):
    assert client.get(reverse("admin:password_change")).url == reverse("account_change_password")


@pytest.fixture
def clerk(world: World) -> Client:
    """Staff who may change people, and is no superuser."""
    person = User.objects.create_user("clerk", is_staff=True)
    person.user_permissions.set(
        Permission.objects.filter(content_type__app_label="jit_identity", codename__in=["change_user", "view_user"])
    )
    browser = Client()
    browser.force_login(person)
    return browser


def test_staff_cannot_make_themselves_superusers(clerk: Client):
    me = User.objects.get(username="clerk")
    save(clerk, url(me), is_superuser="on", is_staff="on", first_name="Cleo")
    me.refresh_from_db()
    assert me.first_name == "Cleo"
    assert not me.is_superuser
    assert me.user_permissions.count() == 2


def test_staff_cannot_take_over_a_superuser(clerk: Client, world: World):
    password = world.ada.password
    page = reverse("admin:auth_user_password_change", args=[world.ada.pk])
    new = {"password1": "tr0ub4dor and three", "password2": "tr0ub4dor and three", "usable_password": "true"}
    assert clerk.post(page, new).status_code == 403
    assert clerk.post(url(world.ada), {"username": "ada", "email": "c@example.org"}).status_code == 403
    world.ada.refresh_from_db()
    assert (world.ada.password, world.ada.email) == (password, "")


def test_staff_without_the_right_to_it_issue_no_tokens_and_classify_nothing(clerk: Client, world: World):
    assert (
        clerk.post(reverse("admin:jit_identity_agent_token", args=[world.agent.pk]), {"minutes": 5}).status_code == 403
    )
    assert AccessToken.objects.count() == 1
    assert clerk.post(url(world.read), {"access": "read", "digest": world.read.digest}).status_code == 403
    world.read.refresh_from_db()
    assert world.read.pin == ""
