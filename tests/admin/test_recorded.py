"""Every change through the admin leaves exactly one ledger entry, with the admin's name and without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from jitaccess.audit import admin_base
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import AccessToken, Agent, Team, User
from jitaccess.policy.models import (
    ApprovalPolicy,
    ApprovalPolicyVersion,
    DefaultRole,
    Delegation,
    OnCallSchedule,
    Requestable,
    Role,
    RoleBinding,
    ServerAccess,
)
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from tests.admin.conftest import ONE_YES, READER, World, act, filled, save, url

Fresh = Callable[[], list[Entry]]
PASSWORDS = {"password1": "tr0ub4dor and three", "password2": "tr0ub4dor and three", "usable_password": "true"}
Step = Callable[[Client, World], Any]

STEPS: dict[str, tuple[str, Step]] = {
    "add a team": ("configuration.changed", lambda c, w: save(c, url(Team, "add"), name="data", members=[w.bob.pk])),
    "change a team": ("configuration.changed", lambda c, w: save(c, url(w.team), members=[w.bob.pk])),
    "delete a team": ("configuration.changed", lambda c, w: c.post(url(spare_team(), "delete"), {"post": "yes"})),
    "delete teams": ("configuration.changed", lambda c, w: act(c, Team, "delete_selected", spare_team(), post="yes")),
    "add a person": ("configuration.changed", lambda c, w: save(c, url(User, "add"), username="zoe", **PASSWORDS)),
    "change a person": ("configuration.changed", lambda c, w: save(c, url(w.bob), email="bob@example.org")),
    "deactivate a person": ("configuration.changed", lambda c, w: save(c, url(w.bob), is_active=None)),
    "set a password": (
        "configuration.changed",
        lambda c, w: c.post(reverse("admin:auth_user_password_change", args=[w.bob.pk]), PASSWORDS),
    ),
    "add a group": ("configuration.changed", lambda c, w: save(c, url(Group, "add"), name="clerks")),
    "add an agent": (
        "agent.created",
        lambda c, w: save(c, url(Agent, "add"), name="bot2", owner=w.owner.pk, team=w.team.pk, users=[w.bob.pk]),
    ),
    "change an agent": ("configuration.changed", lambda c, w: save(c, url(w.agent), owner=w.bob.pk)),
    "disable an agent": ("agent.disabled", lambda c, w: act(c, Agent, "disable", w.agent)),
    "issue a token": (
        "token.issued",
        lambda c, w: c.post(reverse("admin:jit_identity_agent_token", args=[w.agent.pk]), {"minutes": 5}),
    ),
    "revoke a token": ("token.revoked", lambda c, w: act(c, AccessToken, "revoke", w.token)),
    "add a server": (
        "server.registered",
        lambda c, w: save(c, url(Server, "add"), slug="mail", url="https://mail.example/mcp"),
    ),
    "change a server": ("configuration.changed", lambda c, w: save(c, url(w.server), instructions="Be kind.")),
    "disable a server": ("configuration.changed", lambda c, w: act(c, Server, "disable", w.server)),
    "classify a tool": (
        "tool.classified",
        lambda c, w: c.post(url(w.read), {"access": "read", "digest": w.read.digest}),
    ),
    "classify tools": (
        "tool.classified",
        lambda c, w: act(
            c, Tool, "classify_as_read", w.read, confirmed="yes", **{f"digest-{w.read.pk}": w.read.digest}
        ),
    ),
    "add a role": (
        "role.saved",
        lambda c, w: save(c, url(Role, "add"), document=READER.replace("reader", "other")),
    ),
    "change a role": (
        "role.saved",
        lambda c, w: save(c, url(w.role), document=READER.replace("read]", "read, write]")),
    ),
    "delete an unused role": (
        "configuration.changed",
        lambda c, w: c.post(url(spare_role(), "delete"), {"post": "yes"}),
    ),
    "add a default role": (
        "binding.created",
        lambda c, w: save(c, url(DefaultRole, "add"), everyone="users", role=w.role.pk),
    ),
    "end a default role": ("binding.ended", lambda c, w: act(c, DefaultRole, "end", w.default)),
    "add a standing binding": (
        "binding.created",
        lambda c, w: save(
            c, url(RoleBinding, "add"), role=w.role.pk, team=w.team.pk, expires_at_0="2099-01-01", expires_at_1="00:00"
        ),
    ),
    "end a standing binding": ("binding.ended", lambda c, w: act(c, RoleBinding, "end", w.standing)),
    "change who may use a server": ("configuration.changed", lambda c, w: save(c, url(w.access), teams=[w.team.pk])),
    "delete who may use a server": (
        "configuration.changed",
        lambda c, w: c.post(url(w.access, "delete"), {"post": "yes"}),
    ),
    "add a requestable": (
        "configuration.changed",
        lambda c, w: save(c, url(Requestable, "add"), server=w.server.pk, policy=w.policy.pk, access=["write"]),
    ),
    "change a requestable": ("configuration.changed", lambda c, w: save(c, url(w.requestable), max_minutes=30)),
    "add an approval policy": (
        "policy.saved",
        lambda c, w: save(c, url(ApprovalPolicy, "add"), document=ONE_YES.replace("one-yes", "strict")),
    ),
    "change an approval policy": (
        "policy.saved",
        lambda c, w: save(c, url(w.policy), document=ONE_YES.replace("user:bob", "team:core")),
    ),
    "add a schedule": (
        "configuration.changed",
        lambda c, w: save(c, url(OnCallSchedule, "add"), name="ops", url="https://calls.example/"),
    ),
    "hand over approvals": (
        "delegation.created",
        lambda c, w: save(
            c, url(Delegation, "add"), delegate=w.bob.pk, ends_at_0=f"{now() + timedelta(days=9):%F}", ends_at_1="00:00"
        ),
    ),
}


def spare_team() -> Team:
    return Team.objects.create(name="spare")


def spare_role() -> Role:
    return save_role(document=READER.replace("reader", "spare"), operator=Actor.system("test"))


@pytest.mark.parametrize(("event", "step"), STEPS.values(), ids=STEPS)
def test_a_change_leaves_exactly_one_entry_with_the_admins_name(
    event: str, step: Step, world: World, client: Client, new_entries: Fresh
):
    response = step(client, world)
    assert response.status_code in {200, 302}
    # That somebody who is deactivated is signed out everywhere is on record besides.
    others = {"sessions.ended"}
    entries = [entry for entry in new_entries() if entry.user_name != "system:test" and entry.event not in others]
    assert [(entry.event, entry.user_name, entry.user, entry.client) for entry in entries] == [
        (event, "ada", world.ada.pk, "admin")
    ]
    assert entries[0].source == "127.0.0.1"


def test_an_entry_says_what_was_changed_from_what_to_what(world: World, client: Client, new_entries: Fresh):
    save(client, url(world.agent), owner=world.bob.pk, users=[world.ada.pk], description="helps")
    data = json.loads(new_entries()[0].data)
    assert data == {
        "action": "changed",
        "kind": "agent",
        "id": str(world.agent.pk),
        "name": "bot",
        "changes": {
            "description": {"from": "", "to": "helps"},
            "owner": {"from": "owner", "to": "bob"},
            "users": {"added": ["ada"], "removed": []},
        },
    }


def test_saving_without_a_change_leaves_no_entry(world: World, client: Client, new_entries: Fresh):
    for row in (
        world.team,
        world.agent,
        world.server,
        world.role,
        world.access,
        world.requestable,
        world.policy,
        world.bob,
    ):
        assert save(client, url(row)).status_code == 302, row
    assert new_entries() == []
    world.role.refresh_from_db()
    assert world.role.head == 1


def test_no_password_and_no_hash_reaches_the_ledger(world: World, client: Client, new_entries: Fresh):
    save(client, url(User, "add"), username="zoe", **PASSWORDS)
    zoe = User.objects.get(username="zoe")
    client.post(reverse("admin:auth_user_password_change", args=[world.bob.pk]), PASSWORDS)
    client.post(url(zoe, "delete"), {"post": "yes"})
    entries = new_entries()
    assert [json.loads(entry.data)["action"] for entry in entries] == ["added", "changed", "removed"]
    for entry in entries:
        assert "tr0ub4dor" not in entry.data
        assert zoe.password not in entry.data
        assert "pbkdf2" not in entry.data


def test_what_cannot_be_recorded_does_not_happen(world: World, client: Client, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the ledger is full")

    page = filled(client.get(url(world.team)), name="renamed")
    monkeypatch.setattr(admin_base, "record", broken)
    for write in (
        lambda: client.post(url(world.team), page),
        lambda: client.post(url(world.access, "delete"), {"post": "yes"}),
        lambda: act(client, ServerAccess, "delete_selected", world.access, post="yes"),
        lambda: client.post(reverse("admin:auth_user_password_change", args=[world.bob.pk]), PASSWORDS),
    ):
        with pytest.raises(RuntimeError):
            write()
    assert Team.objects.get().name == "core"
    assert ServerAccess.objects.exists()
    assert User.objects.get(username="bob").password == world.bob.password


def test_a_page_opened_before_somebody_was_shut_out_does_not_let_them_in_again(
    world: World, client: Client, new_entries: Fresh
):
    stale = filled(client.get(url(world.bob)), email="bob@example.org")
    User.objects.filter(pk=world.bob.pk).update(is_active=False)
    client.post(url(world.bob), stale)
    world.bob.refresh_from_db()
    assert world.bob.email == "bob@example.org"
    assert not world.bob.is_active
    assert "is_active" not in new_entries()[0].data


def test_a_page_opened_before_a_disabling_does_not_enable_again(world: World, client: Client):
    stale = {row: filled(client.get(url(row)), description="new") for row in (world.agent, world.server)}
    act(client, Agent, "disable", world.agent)
    act(client, Server, "disable", world.server)
    for row, page in stale.items():
        client.post(url(row), page | {"enabled": "on"})
        row.refresh_from_db()
        assert row.description == "new"
        assert not row.enabled


def test_disabling_twice_is_recorded_once(world: World, client: Client, new_entries: Fresh):
    for _ in range(2):
        act(client, Agent, "disable", world.agent)
        act(client, Server, "disable", world.server)
    assert [entry.event for entry in new_entries()] == ["agent.disabled", "configuration.changed"]


def test_an_action_that_is_refused_for_one_row_is_done_for_the_others(world: World, client: Client, new_entries: Fresh):
    granted = RoleBinding.objects.get(origin="grant")
    page = client.get(act(client, RoleBinding, "end", world.standing, granted).url).content.decode()
    assert "Revoke the grant instead" in page
    assert "Bindings ended: 1." in page
    granted.refresh_from_db()
    assert granted.ended_at is None
    assert [entry.event for entry in new_entries()] == ["binding.ended"]


def test_a_slug_is_for_life(world: World, client: Client):
    save(client, url(world.server), slug="other", description="x")
    world.server.refresh_from_db()
    assert (world.server.slug, world.server.description) == ("files", "x")


def test_deleting_a_policy_with_its_versions_is_refused_while_something_needs_it(world: World, client: Client):
    client.post(url(world.policy, "delete"), {"post": "yes"})
    assert ApprovalPolicyVersion.objects.filter(policy=world.policy).exists()
