"""What a change would do is shown before it is saved; nothing is written by looking; old versions come back as new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from jitaccess.audit import admin_preview
from jitaccess.audit.admin_preview import WithPreview
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.models import AccessClass, ServerHealth
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import User
from jitaccess.identity.services import create_agent
from jitaccess.policy.approval.document import parse_policy
from jitaccess.policy.models import (
    ApprovalPolicy,
    DefaultRole,
    PolicyVersion,
    Requestable,
    Role,
    RoleBinding,
    RoleVersion,
    ServerAccess,
)
from jitaccess.policy.policies import dead_ends
from jitaccess.policy.services import bind_role, save_role
from jitaccess.store.clock import now
from tests.admin.conftest import ONE_YES, READER, World, filled, save, url

Fresh = Callable[[], list[Entry]]
NOTHING = READER.replace("[read]", "[destructive]")
SOME = READER.replace("      access: [read]\n", "      access: [read]\n      where: args.path == 'x'\n")


def look(client: Client, page: str, **changes: Any) -> Any:
    """The page that comes before saving, and what was sent."""
    data = filled(client.get(page), **changes)
    response = client.post(page, data)
    assert response.status_code == 200
    return response, data


def called(world: World, tool: str = "read_file", count: int = 1, event: Event = Event.CALL_AUTHORIZED) -> None:
    actor = Actor(agent=world.agent.pk, agent_name=world.agent.name)
    for _ in range(count):
        record(
            Facts(
                event=event,
                actor=actor,
                outcome=Outcome.ALLOWED,
                server=world.server.pk,
                server_name="files",
                tool=tool,
            )
        )


@pytest.fixture
def reading(world: World) -> None:
    """A tool that the role covers, called twice."""
    classify_tool(tool=world.read, access=AccessClass.READ, operator=Actor.system("test"))
    called(world, count=2)


@pytest.mark.usefixtures("reading")
def test_the_preview_of_a_role_names_the_agents_and_the_calls_that_would_be_refused(
    world: World, client: Client, new_entries: Fresh
):
    create_agent(name="second", owner=world.owner, team=world.team, operator=Actor.system("test"))
    version = PolicyVersion.objects.get().version
    new_entries()
    response, _ = look(client, url(world.role), document=NOTHING)
    impact = response.context["held"].impact
    assert impact.agents == ("bot", "second")
    assert [(one.tool, one.count, one.allowed) for one in impact.calls] == [("read_file", 2, False)]
    page = response.content.decode()
    assert "2 agents</strong>" in page
    assert "refused" in page
    # Nothing was written.
    assert new_entries() == []
    assert RoleVersion.objects.count() == 1
    assert PolicyVersion.objects.get().version == version


@pytest.mark.usefixtures("reading")
def test_what_was_looked_at_is_saved_and_nothing_else(world: World, client: Client):
    response, data = look(client, url(world.role), document=NOTHING)
    token = response.context["held"].token
    assert client.post(url(world.role), data | {"document": SOME, "previewed": token}).status_code == 200
    assert client.post(url(world.role), data | {"previewed": "x" * 64}).status_code == 200
    assert RoleVersion.objects.count() == 1
    assert client.post(url(world.role), data | {"previewed": token}).status_code == 302
    assert RoleVersion.objects.count() == 2


@pytest.mark.usefixtures("reading")
def test_what_somebody_else_was_shown_or_long_ago_or_of_another_row_is_not_saved(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
):
    response, data = look(client, url(world.role), document=NOTHING)
    seen = data | {"previewed": response.context["held"].token}
    other = Client()
    other.force_login(User.objects.create_superuser("second", password="a password of theirs"))
    assert other.post(url(world.role), seen).status_code == 200
    assert other.post(reverse("admin:jit_policy_role_add"), seen).status_code == 200
    assert client.post(reverse("admin:jit_policy_role_add"), seen).status_code == 200
    with monkeypatch.context() as patch:
        patch.setattr(admin_preview, "LIFE", -1)
        assert client.post(url(world.role), seen).status_code == 200
    assert RoleVersion.objects.count() == 1
    assert client.post(url(world.role), seen).status_code == 302


@pytest.mark.usefixtures("reading")
def test_one_is_asked_again_when_it_came_to_mean_something_else(world: World, client: Client):
    response, data = look(client, url(world.role), document=NOTHING)
    token = response.context["held"].token
    create_agent(name="second", owner=world.owner, team=world.team, operator=Actor.system("test"))
    again = client.post(url(world.role), data | {"previewed": token})
    assert again.status_code == 200
    assert again.context["held"].impact.agents == ("bot", "second")
    assert RoleVersion.objects.count() == 1


@pytest.mark.usefixtures("reading")
def test_a_condition_that_is_new_is_told_as_such(world: World, client: Client):
    response, _ = look(client, url(world.role), document=SOME)
    assert [one.outcome for one in response.context["held"].impact.calls] == [
        "refused with some arguments, or at some times"
    ]


def test_a_new_binding_tells_which_calls_it_would_allow(world: World, client: Client):
    save_role(document=READER.replace("reader", "writer").replace("[read]", "[write]"), operator=Actor.system("test"))
    RoleBinding.objects.filter(origin="grant").update(ended_at=now())
    called(world, "write_file", event=Event.CALL_DENIED)
    role = Role.objects.get(name="writer")
    response, _ = look(client, url(RoleBinding, "add"), role=role.pk, agent=world.agent.pk)
    impact = response.context["held"].impact
    assert impact.agents == ("bot",)
    assert [(one.tool, one.outcome) for one in impact.calls] == [("write_file", "allowed")]
    assert not RoleBinding.objects.filter(role=role).exists()


@pytest.mark.usefixtures("reading")
def test_closing_a_server_says_whose_calls_end_and_warns_when_it_is_the_last(world: World, client: Client):
    response, _ = look(client, url(world.access), every_team=None)
    impact = response.context["held"].impact
    assert impact.agents == ("bot",)
    assert [one.allowed for one in impact.calls] == [False]
    assert "No server would be open" in response.content.decode()
    assert ServerAccess.objects.get().every_team


def test_a_requestable_tells_which_tools_it_is_about(world: World, client: Client):
    response, _ = look(client, url(world.requestable), tools="read_*")
    assert [one.tool for one in response.context["held"].impact.tools] == ["read_file", "write_file"]
    assert Requestable.objects.get().tools == "write_*"


def test_an_approval_policy_is_tried_on_the_requests_there_were(world: World, client: Client):
    response, _ = look(client, url(world.policy), document=ONE_YES.replace("user:bob", "user:owner"))
    (replay,) = response.context["held"].impact.simulation.changed
    assert replay.request.pk == world.request.pk
    assert "owner" in response.content.decode()
    assert ApprovalPolicy.objects.get().head == 1


def test_a_mistake_is_told_before_anything_is_shown(world: World, client: Client):
    response, _ = look(client, url(world.role), document="kind: rule")
    assert response.context["held"] is None
    assert response.context["adminform"].form.errors["document"]


def test_every_page_about_rights_shows_what_it_changes_first():
    without = [
        one
        for one in (Role, RoleBinding, DefaultRole, ServerAccess, Requestable, ApprovalPolicy)
        if not isinstance(admin.site._registry[one], WithPreview)
    ]
    assert without == []


def test_who_may_not_change_it_sees_no_preview(world: World):
    watcher = User.objects.create_user("watcher", is_staff=True)
    browser = Client()
    browser.force_login(watcher)
    assert browser.post(url(world.role), {"document": NOTHING}).status_code == 403


def test_an_old_version_comes_back_as_a_new_one(world: World, client: Client, new_entries: Fresh):
    save(client, url(world.role), document=NOTHING)
    history = client.get(url(world.role, "history")).content.decode()
    assert "Version 2 (current)" in history
    assert "<ins>destructive</ins>" in history
    assert f"{url(world.role)}?version=1" in history
    new_entries()
    page = f"{url(world.role)}?version=1"
    opened = client.get(page)
    assert "what version 1 said" in opened.content.decode()
    assert save(client, page).status_code == 302
    world.role.refresh_from_db()
    assert (world.role.head, world.role.document) == (3, READER)
    assert [entry.event for entry in new_entries()] == [Event.ROLE_SAVED]


@pytest.mark.parametrize("version", ["0", "99", "x", "1" * 30, "²"])
def test_a_version_that_there_is_not_leaves_the_form_as_it_is(version: str, world: World, client: Client):
    response = client.get(url(world.role), {"version": version})
    assert response.status_code == 200
    assert response.context["adminform"].form["document"].value() == READER


def test_the_history_of_other_rows_is_what_was_recorded(world: World, client: Client):
    assert save(client, url(world.requestable), max_minutes="30").status_code == 302
    page = client.get(url(world.requestable, "history")).content.decode()
    assert "max_minutes" in page
    assert "240 → 30" in page
    assert "ada" in page


def test_the_first_page_says_what_needs_attention_to_whom_may_see_it(world: World, client: Client):
    ServerHealth.objects.create(server=world.server, ok=False, checked_at=now())
    page = client.get(reverse("admin:index")).content.decode()
    assert "Tools that nobody has reviewed: <strong>1</strong>" in page
    assert "Servers that do not answer" in page
    for one in client.get(reverse("admin:index")).context["attention"]:
        assert client.get(one.url).status_code == 200
    browser = Client()
    browser.force_login(User.objects.create_user("watcher", is_staff=True))
    assert "Nothing, as far as you may see" in browser.get(reverse("admin:index")).content.decode()


def refused(client: Client, page: str, said: str, **changes: Any) -> None:
    """Shown with why, and saved neither now nor by saying that it was looked at."""
    response, data = look(client, page, **changes)
    held = response.context["held"]
    shown = response.content.decode()
    assert said in " ".join(held.impact.refusals)
    assert said in shown
    assert 'value="Save"' not in shown
    assert client.post(page, data | {"previewed": held.token}).status_code == 200


def test_a_ceiling_of_everybody_that_allows_nothing_is_refused(world: World, client: Client):
    bind_role(role=world.role, everyone="agents", origin=RoleBinding.Origin.CEILING, operator=Actor.system("test"))
    empty = READER[: READER.index("  allow:")] + "  allow: []\n"
    refused(client, url(world.role), "every agent could do nothing", document=empty)
    assert RoleVersion.objects.count() == 1


def test_a_policy_in_use_that_nobody_could_decide_is_refused(world: World, client: Client):
    impossible = ONE_YES.replace('["user:bob"]', '["user:bob", "user:owner"], quorum: 2')
    User.objects.filter(username="owner").update(is_active=False)
    refused(client, url(world.policy), "could never decide", document=impossible)
    world.policy.refresh_from_db()
    assert world.policy.head == 1
    Requestable.objects.all().delete()
    assert save(client, url(world.policy), document=impossible).status_code == 302
    # What was so before is no reason to refuse something else.
    Requestable.objects.create(server=world.server, access="write", policy=world.policy)
    assert save(client, url(world.policy), document=impossible + "# the same\n").status_code == 302


def test_a_policy_that_only_a_role_uses_is_in_use(world: World):
    Requestable.objects.all().delete()
    User.objects.filter(username="owner").update(is_active=False)
    impossible = parse_policy(ONE_YES.replace('["user:bob"]', '["user:bob", "user:owner"], quorum: 2'))
    assert dead_ends(impossible, world.policy) == ()
    asked = READER.replace("reader", "asked") + "  request: {max_duration: 1h, approval: one-yes}\n"
    save_role(document=asked, operator=Actor.system("test"))
    [said] = dead_ends(impossible, world.policy)
    assert "group leads: 2 must approve, but 1 active people" in said
