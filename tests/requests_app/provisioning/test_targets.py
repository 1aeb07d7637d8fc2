"""Targets in the admin, and their secrets: sealed, bound to an address, two while they change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.catalog.credentials import Rotation
from jitaccess.kernel.secretbox import KeyRing, generate_key, key_id
from jitaccess.store import sealing
from requests_app.provisioning import registry
from requests_app.provisioning.rows import Provision, Target
from requests_app.provisioning.targets import (
    drop_old_secret,
    keys_in_use,
    reseal_targets,
    sealed_with,
    secrets_of,
    set_secret,
)
from requests_app.provisioning.tasks import provision
from tests.cast import OPERATOR, Cast
from tests.requests_app.ledger import gains, refused
from tests.requests_app.provisioning.play import granted, the_provision
from tests.requests_app.provisioning.receiver import OTHER_SECRET, SECRET
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.django_db

LIST = reverse("admin:jit_requests_target_changelist")
ADD = reverse("admin:jit_requests_target_add")
FORM = {
    "slug": "crm", "kind": "webhook", "url": "https://hooks.example.test/in", "match": "server:git",
    "secret": SECRET, "enabled": "on", "initial-enabled": "on", "description": "",
}  # fmt: skip


@pytest.fixture
def hook(db: Any) -> Target:
    target = Target.objects.create(slug="hook", url="https://hooks.example.test/in", match="server:git")
    set_secret(target=target, secret=SECRET, operator=OPERATOR)
    return target


def test_a_new_secret_keeps_the_one_before_until_it_is_dropped(hook: Target) -> None:
    with gains("credential.set"):
        set_secret(target=hook, secret=OTHER_SECRET, operator=OPERATOR)
    assert secrets_of(hook) == (OTHER_SECRET, SECRET)
    with gains("credential.removed"):
        assert drop_old_secret(target=hook, operator=OPERATOR)
    hook.refresh_from_db()
    assert secrets_of(hook) == (OTHER_SECRET,)
    with gains():
        assert not drop_old_secret(target=hook, operator=OPERATOR)


def test_a_secret_opens_for_its_target_and_address_only(hook: Target) -> None:
    other = Target.objects.create(slug="other", url=hook.url, match="", sealed=hook.sealed)
    with refused("provisioning.secret_unreadable", "other"):
        secrets_of(other)
    for url in ("https://evil.example.test/in", "", "nonsense"):
        hook.url = url
        with refused("provisioning.secret_unreadable"):
            secrets_of(hook)
    hook.url = "https://hooks.example.test/another/path"
    assert secrets_of(hook) == (SECRET,)


def test_what_is_no_secret_is_refused(hook: Target) -> None:
    with refused("provisioning.secret"):
        set_secret(target=hook, secret="hunter2", operator=OPERATOR)
    shelf = Target.objects.create(slug="shelf", kind="shelf", match="")
    with refused("provisioning.secret"):
        set_secret(target=shelf, secret="two\nlines", operator=OPERATOR)
    set_secret(target=shelf, secret="any words", operator=OPERATOR)
    assert secrets_of(shelf) == ("any words",)


def test_secrets_move_to_a_new_key(hook: Target) -> None:
    set_secret(target=hook, secret=OTHER_SECRET, operator=OPERATOR)
    old = key_id(hook.sealed)
    keys = KeyRing.from_text(f"{generate_key('fresh')},{sealing.ring_text()}")
    with gains("credentials.resealed"):
        assert reseal_targets(keys, operator=OPERATOR) == Rotation("fresh", 1, 0, ())
    with gains():
        assert reseal_targets(keys, operator=OPERATOR) == Rotation("fresh", 0, 1, ())
    assert sealed_with(old) == []
    assert sealed_with("fresh") == ["secret of the target hook"] * 2
    assert keys_in_use() == {"fresh": 2}
    Target.objects.update(url="https://elsewhere.example.test/")
    newer = KeyRing.from_text(f"{generate_key('newer')},{generate_key('fresh')}")
    with gains():
        assert reseal_targets(newer, operator=OPERATOR).unreadable == ("secret of the target hook",)


def test_an_admin_adds_a_target_and_its_secret_goes_in_only(cast: Cast, client: Client) -> None:
    client.force_login(cast.admin)
    with gains("credential.set", "configuration.changed"):
        response = client.post(ADD, FORM)
    assert response.status_code == 302, response.context["errors"]
    target = Target.objects.get()
    assert secrets_of(target) == (SECRET,)
    page = client.get(reverse("admin:jit_requests_target_change", args=[target.pk])).content.decode()
    assert "set, key " in page
    assert SECRET not in page
    assert all(SECRET not in entry.data for entry in Entry.objects.all())
    assert "webhook to hooks.example.test:443" in client.get(LIST).content.decode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": ""}, "needs an address"),
        ({"url": "http://10.0.0.1/"}, "private address"),
        ({"match": "git"}, "expected one of server:PATTERN"),
        ({"secret": "hunter2"}, "base64 of 24 to 64 bytes"),
        ({"kind": "spaceship"}, "Select a valid choice"),
        ({"slug": "Not A Slug"}, "small letters"),
    ],
)
def test_mistakes_are_said_on_the_page(cast: Cast, client: Client, changes: dict[str, str], said: str) -> None:
    client.force_login(cast.admin)
    with gains():
        response = client.post(ADD, FORM | changes)
    assert response.status_code == 200
    assert said in response.content.decode()
    assert not Target.objects.exists()


def test_at_another_address_the_old_secrets_are_forgotten(cast: Cast, client: Client, hook: Target) -> None:
    client.force_login(cast.admin)
    change = reverse("admin:jit_requests_target_change", args=[hook.pk])
    form = {"url": "https://elsewhere.example.test/", "match": "server:git", "secret": "", "enabled": "on"}
    with gains("configuration.changed", "credential.removed"):
        assert client.post(change, form | {"initial-enabled": "on"}).status_code == 302
    hook.refresh_from_db()
    assert (hook.sealed, secrets_of(hook)) == ("", ())


def test_a_target_in_use_cannot_be_deleted_only_switched_off(
    cast: Cast, client: Client, target: Target, shelf: Shelf
) -> None:
    granted(cast)
    client.force_login(cast.admin)
    assert client.post(reverse("admin:jit_requests_target_delete", args=[target.pk])).status_code == 403
    response = client.post(LIST, {"action": "delete_selected", "_selected_action": [str(target.pk)], "post": "yes"})
    assert response.status_code in {200, 302}
    assert Target.objects.exists()


def test_a_person_can_have_it_tried_again(cast: Cast, client: Client, target: Target, shelf: Shelf) -> None:
    granted(cast)
    with shelf.down():
        provision()
    client.force_login(cast.admin)
    page = reverse("admin:jit_requests_provision_changelist")
    assert "It is down." in client.get(page).content.decode()
    Target.objects.update(away_until=None)
    with gains("configuration.changed"):
        client.post(page, {"action": "try_again_now", "_selected_action": [str(the_provision().pk)]}, follow=True)
    data = json.loads(Entry.objects.get(event="configuration.changed", user_name="admin").data)
    assert data["action"] == "tried again"
    assert provision() == 1
    detail = reverse("admin:jit_requests_provision_change", args=[Provision.objects.get().pk])
    assert client.get(detail).status_code == 200


def test_kinds_are_registered_once_and_by_names(shelf: Shelf) -> None:
    assert registry.kinds() == ["folder", "shelf", "webhook"]
    for kind, said in (("webhook", "already"), ("No Kind", "no name")):
        with pytest.raises(ValueError, match=said):
            registry.register(kind, shelf.of)
