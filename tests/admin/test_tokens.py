"""A token is in one response and nowhere else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.identity.models import AccessToken
from jitaccess.identity.services import authenticate
from jitaccess.kernel.errors import Forbidden
from tests.admin.conftest import World, act, url


def page(world: World) -> str:
    return reverse("admin:jit_identity_agent_token", args=[world.agent.pk])


def issue(client: Client, world: World, **fields: Any) -> tuple[str, Any]:
    response = client.post(page(world), {"minutes": 30, **fields})
    found = re.findall(r"jit_[A-Za-z0-9_-]{43}", response.content.decode())
    assert len(found) == 1
    return found[0], response


def test_a_token_works_and_is_shown_once_and_kept_nowhere(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
):
    value, response = issue(client, world)
    assert authenticate(value).agent == world.agent.pk
    assert "no-store" in response.headers["Cache-Control"]
    assert value not in str(response.headers)
    assert value not in str(client.cookies)
    assert value not in str(dict(client.session))
    for model in apps.get_models():
        assert value not in str(list(model._default_manager.values())), model
    assert value not in caplog.text
    for later in (page(world), url(world.agent), url(AccessToken, "changelist"), url(Entry, "changelist"), "/admin/"):
        assert value not in client.get(later).content.decode(), later
    assert not LogEntry.objects.exists()


def test_not_even_the_hash_is_shown(world: World, client: Client):
    for listed in (url(AccessToken, "changelist"), url(world.token)):
        assert world.token.hash not in client.get(listed).content.decode()


def test_a_token_on_behalf_of_somebody_carries_both(world: World, client: Client):
    world.agent.users.add(world.bob)
    value, _ = issue(client, world, user=world.bob.pk, minutes=5)
    principal = authenticate(value)
    assert (principal.agent_name, principal.user_name, principal.issued_by) == ("bot", "bob", world.ada.pk)


@pytest.mark.parametrize("minutes", ["0", "61", "-5", "", "x", "99999999999999999999"])
def test_a_token_lives_an_hour_at_most(minutes: str, world: World, client: Client):
    response = client.post(page(world), {"minutes": minutes})
    assert response.status_code == 200
    assert response.context["form"].errors["minutes"]
    assert AccessToken.objects.count() == 1


def test_nobody_is_acted_for_who_may_not_use_the_agent(world: World, client: Client):
    assert "user" in client.post(page(world), {"minutes": 5, "user": world.bob.pk}).context["form"].errors
    assert AccessToken.objects.count() == 1


def test_a_disabled_agent_gets_no_token_but_the_reason(world: World, client: Client):
    type(world.agent).objects.update(enabled=False)
    response = client.post(page(world), {"minutes": 5})
    assert "is disabled" in response.content.decode()
    assert AccessToken.objects.count() == 1


def test_looking_at_the_page_issues_nothing(world: World, client: Client):
    assert client.get(page(world)).status_code == 200
    assert AccessToken.objects.count() == 1


def test_without_the_csrf_token_nothing_is_issued(world: World):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(world.ada)
    assert browser.post(page(world), {"minutes": 5}).status_code == 403
    assert AccessToken.objects.count() == 1


def test_a_revoked_token_is_refused(world: World, client: Client):
    value, _ = issue(client, world)
    act(client, AccessToken, "revoke", *AccessToken.objects.all())
    with pytest.raises(Forbidden):
        authenticate(value)
