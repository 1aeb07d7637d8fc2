"""Every registered page opens, and what is read-only has no way to be written."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.db import models
from django.test import Client, RequestFactory
from django.urls import NoReverseMatch, reverse

from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.models import Server, Tool
from jitaccess.catalog.options import ServerOptions
from jitaccess.identity.models import AccessToken
from jitaccess.notify.models import Delivery
from jitaccess.policy.models import ApprovalPolicyVersion, DefaultRole, RoleBinding, RoleVersion
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Decision, Grant, Review
from tests.admin.conftest import World, act, url

# The admin's classes are read with the first address: without them there would be nothing to go through.
import_module(settings.ROOT_URLCONF)
ALL = sorted(admin.site._registry, key=lambda model: model._meta.label)
FROZEN = [
    AccessRequest,
    Decision,
    Grant,
    Review,
    Entry,
    Leaf,
    Delivery,
    RoleVersion,
    ApprovalPolicyVersion,
    AccessToken,
]


def some(model: Any, world: World) -> Any:
    """A row of the model; the few that the world has none of are made here."""
    if model is Leaf:
        sequence()
    if model is Delivery:
        entry = Entry.objects.first()
        Delivery.objects.create(
            entry=entry.pk, event="x", request=world.request.pk, user=world.bob, channel="console", due_at=now()
        )
    if model is Review:
        Review.objects.create(grant=world.request.grant, right_name="x", team=world.team.pk)
    page = admin.site._registry[model]
    return page.get_queryset(RequestFactory().get("/")).first()


def rows(model: Any) -> list[dict[str, Any]]:
    return list(model.objects.order_by("pk").values())


@pytest.mark.parametrize("model", ALL, ids=lambda model: model._meta.label)
def test_every_list_add_and_change_page_opens_for_a_superuser(model: type[models.Model], world: World, client: Client):
    row = some(model, world)
    assert client.get(url(model, "changelist")).status_code == 200
    assert client.get(url(model, "changelist"), {"q": str(world.request.pk)}).status_code == 200
    assert client.get(url(model, "changelist"), {"q": "bo\0t ' \" %"}).status_code == 200
    may_add = admin.site._registry[model].has_add_permission(client.get("/admin/").wsgi_request)
    assert client.get(url(model, "add")).status_code == (200 if may_add else 403)
    if row is not None:
        assert client.get(url(row)).status_code == 200
        assert client.get(url(row, "history")).status_code == 200


def test_nothing_is_registered_that_changes_accounts_without_a_record():
    assert not [model for model in ALL if model._meta.app_label in {"account", "socialaccount", "sessions", "admin"}]


@pytest.mark.parametrize("model", FROZEN, ids=lambda model: model._meta.label)
def test_workflow_rows_and_the_ledger_have_no_write_path(model: Any, world: World, client: Client):
    row = some(model, world)
    before, entries = rows(model), Entry.objects.count()
    for page in (url(model, "add"), url(row), url(row, "delete")):
        assert client.post(page, {"post": "yes", "status": "approved", "live": ""}).status_code == 403, page
    act(client, model, "delete_selected", row, post="yes")
    assert rows(model) == before
    assert Entry.objects.count() == entries
    page = client.get(url(model, "changelist")).content.decode()
    assert "delete_selected" not in page
    assert 'name="_save"' not in page


@pytest.mark.parametrize("model", [RoleBinding, DefaultRole], ids=["standing", "default"])
def test_bindings_are_neither_edited_nor_deleted(model: Any, world: World, client: Client):
    row = world.standing if model is RoleBinding else DefaultRole.objects.get(pk=world.default.pk)
    before = rows(RoleBinding)
    assert client.post(url(row), {"role": world.role.pk, "user": world.bob.pk}).status_code == 403
    assert client.post(url(row, "delete"), {"post": "yes"}).status_code == 403
    act(client, model, "delete_selected", row, post="yes")
    assert rows(RoleBinding) == before


def test_a_tool_can_be_reviewed_but_not_added_or_deleted(world: World, client: Client):
    before = rows(Tool)
    assert client.post(url(Tool, "add"), {"name": "x"}).status_code == 403
    assert client.post(url(world.read, "delete"), {"post": "yes"}).status_code == 403
    act(client, Tool, "delete_selected", world.read, post="yes")
    assert rows(Tool) == before


def test_a_default_role_is_not_among_the_standing_ones_and_a_granted_one_is_shown(world: World, client: Client):
    page = client.get(url(RoleBinding, "changelist"))
    shown = {row.pk for row in page.context["cl"].result_list}
    granted = RoleBinding.objects.get(origin="grant")
    assert shown == {world.standing.pk, granted.pk}
    assert str(world.write.pk) in client.get(url(granted)).content.decode()
    assert {row.pk for row in client.get(url(DefaultRole, "changelist")).context["cl"].result_list} == {
        world.default.pk
    }


def test_no_page_has_a_place_for_a_command():
    for model, page in admin.site._registry.items():
        names = {field.name for field in model._meta.get_fields()}
        assert not names & {"command", "argv", "args", "env", "cwd", "executable"}, page
    assert {field.name for field in Server._meta.concrete_fields} == {
        "id", "slug", "description", "instructions", "enabled", "transport", "url", "era", "shared",
        "owner_team", "labels", *ServerOptions.__dataclass_fields__,
    }  # fmt: skip


def test_text_of_agents_is_shown_as_text(world: World, client: Client):
    page = client.get(url(world.request)).content.decode()
    assert "the &lt;b&gt;report&lt;/b&gt;" in page
    assert "<b>report</b>" not in page


@pytest.mark.parametrize("field", ["request", "agent"])
def test_the_ledger_is_found_by_the_id_of_what_it_is_about(field: str, world: World, client: Client):
    wanted = world.request.pk if field == "request" else world.agent.pk
    found = client.get(url(Entry, "changelist"), {"q": str(wanted)}).context["cl"].result_list
    assert found
    assert all(getattr(entry, field) == wanted for entry in found)


def test_lists_cost_the_same_number_of_queries_for_one_row_and_for_many(
    world: World, client: Client, django_assert_max_num_queries: Any
):
    with django_assert_max_num_queries(8):
        client.get(url(Entry, "changelist"))
    with django_assert_max_num_queries(8):
        client.get(url(AccessRequest, "changelist"))


def test_the_index_names_the_product(world: World, client: Client):
    page = client.get(reverse("admin:index")).content.decode()
    assert "jitaccess" in page
    assert "Django administration" not in page
    with pytest.raises(NoReverseMatch):
        reverse("admin:account_emailaddress_changelist")
