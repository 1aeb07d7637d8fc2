"""What may be asked for, who approves, who is on call and who stands in: what could never work cannot be saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Team, User
from jitaccess.policy.delegations import delegate
from jitaccess.policy.models import ApprovalPolicy, ApprovalPolicyVersion, Delegation, OnCallSchedule, Requestable
from jitaccess.policy.policies import save_policy
from jitaccess.store.clock import now
from tests.admin.conftest import World, act, errors, save, url
from tests.policy.approval.documents import rule, text

Fresh = Callable[[], list[Entry]]
SYSTEM = Actor.system("test")


def group(people: str, quorum: int = 1) -> str:
    return f"stages: [{{groups: [{{name: g, people: [{people}], quorum: {quorum}}}]}}]"


STRICT = text(rule(stages=group("team:core")))


def add(client: Client, document: str) -> Any:
    return save(client, url(ApprovalPolicy, "add"), document=document.replace("\n", "\r\n"))


def said(response: Any) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]


def test_a_new_policy_is_its_first_version(world: World, client: Client, new_entries: Fresh):
    assert add(client, STRICT).status_code == 302
    policy = ApprovalPolicy.objects.get(name="two-person")
    assert (policy.head, policy.document, policy.versions.get().saved_by) == (1, STRICT, "ada")
    assert [entry.event for entry in new_entries()] == ["policy.saved"]


def test_a_changed_policy_is_a_new_version_and_the_old_one_is_kept(world: World, client: Client, new_entries: Fresh):
    policy = save_policy(document=STRICT, operator=SYSTEM)
    new_entries()
    changed = STRICT.replace("quorum: 1", "quorum: 2")
    assert save(client, url(policy), document=changed).status_code == 302
    assert [version.document for version in policy.versions.order_by("version")] == [STRICT, changed]
    assert [(entry.event, entry.user_name) for entry in new_entries()] == [("policy.saved", "ada")]
    page = client.get(url(policy.versions.get(version=1))).content.decode()
    assert "quorum: 1" in page


def test_a_policy_of_an_older_release_gets_its_first_document(world: World, client: Client):
    policy = ApprovalPolicy.objects.create(name="two-person")
    assert "names are for life" in errors(save(client, url(policy), document=STRICT.replace("two-person", "other")))
    assert save(client, url(policy), document=STRICT).status_code == 302
    policy.refresh_from_db()
    assert (policy.head, policy.document) == (1, STRICT)


MISTAKES = {
    "a quorum of nobody": (STRICT.replace("quorum: 1", "quorum: 0"), "line 7", "from 1 to 20"),
    "an empty group": (STRICT.replace("team:core", ""), "line 7", "an empty group"),
    "no stage": (text(rule(stages="stages: []")), "line 7", "at least one stage"),
    "an unreachable rule": (text(rule(name="a"), rule(name="b")), "line 8", "no rule after"),
    "a rule that never decides": (text(rule("when: 1 > 2", stages=group("team:core"))), "line 6", "false for every request"),
    "a condition with a mistake": (text(rule("when: request.minuts(", stages=group("team:core"))), "line 8", "a condition"),
    "somebody who does not exist": (STRICT.replace("team:core", "user:zoe"), "line 7", "no user named zoe"),
    "a team that does not exist": (STRICT.replace("team:core", "team:gone"), "line 7", "no team named gone"),
    "no YAML": ("{", "line 1", "well-formed YAML"),
    "an alias bomb": ("a: &a [x,x]\nb: [*a,*a]\n", "line 2", "aliases"),
    "nul": (STRICT + "\0", "", "Null characters"),
    "nothing": ("  \n", "", ""),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_shown_with_its_line_and_nothing_is_saved(
    mistake: tuple[str, str, str], world: World, client: Client, new_entries: Fresh
):
    policy = save_policy(document=STRICT, operator=SYSTEM)
    new_entries()
    document, line, expected = mistake
    for page in (url(ApprovalPolicy, "add"), url(policy)):
        shown = errors(save(client, page, document=document))
        assert line in shown
        assert expected in shown
    assert new_entries() == []
    assert ApprovalPolicyVersion.objects.filter(policy=policy).count() == 1


def test_names_are_for_life_and_for_one(world: World, client: Client):
    policy = save_policy(document=STRICT, operator=SYSTEM)
    assert "names are for life" in errors(save(client, url(policy), document=STRICT.replace("two-person", "other")))
    assert "there is an approval policy named two-person already" in errors(add(client, STRICT))


def test_a_quorum_that_nobody_can_meet_is_warned_about_with_what_to_change(world: World, client: Client):
    response = add(client, STRICT.replace("quorum: 1", "quorum: 3"))
    assert response.status_code == 302
    [warning] = [one for one in said(response) if "must approve" in one]
    assert "only 2 active people are in this group" in warning
    assert "lower the quorum to 2" in warning


def test_a_group_with_nobody_in_it_is_warned_about(world: World, client: Client):
    Team.objects.create(name="empty")
    warned = said(add(client, STRICT.replace("team:core", "team:empty")))
    assert any("only 0 active people" in one for one in warned)


def test_a_policy_that_nothing_is_to_be_said_about_gets_no_warning(world: World, client: Client):
    assert all("added successfully" in one for one in said(add(client, STRICT)))


def test_a_policy_goes_with_its_versions_unless_something_is_asked_for_under_it(world: World, client: Client):
    policy = save_policy(document=STRICT, operator=SYSTEM)
    world.requestable.policy = policy
    world.requestable.save()
    client.post(url(policy, "delete"), {"post": "yes"})
    assert ApprovalPolicy.objects.filter(pk=policy.pk).exists()
    world.requestable.delete()
    assert client.post(url(policy, "delete"), {"post": "yes"}).status_code == 302
    assert not ApprovalPolicyVersion.objects.filter(policy_id=policy.pk).exists()


def schedule(client: Client, **fields: Any) -> Any:
    start = {"starts_at_0": "2026-03-02", "starts_at_1": "08:00:00", "hours": 12}
    return save(client, url(OnCallSchedule, "add"), **{"name": "ops", **start, **fields})


def test_a_rota_is_written_as_names(world: World, client: Client, new_entries: Fresh):
    assert schedule(client, rota="bob,ada ,bob").status_code == 302
    row = OnCallSchedule.objects.get()
    assert json.loads(row.rota) == ["bob", "ada", "bob"]
    assert [entry.event for entry in new_entries()] == ["configuration.changed"]
    assert client.get(url(row)).context["adminform"].form["rota"].value() == "bob, ada, bob"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "either people in turn or a URL"),
        ({"rota": "bob", "url": "https://calls.example/"}, "either people in turn or a URL"),
        ({"rota": "bob, zoe"}, "no active user named zoe"),
        ({"rota": "bob", "starts_at_0": None, "starts_at_1": None}, "turn begin"),
        ({"rota": "bob", "hours": 0}, "hours"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
    ],
)
def test_a_schedule_that_nobody_would_be_on_call_by_is_refused(
    fields: dict[str, Any], shown: str, world: World, client: Client
):
    assert shown in errors(schedule(client, **fields))
    assert not OnCallSchedule.objects.exists()


def test_what_another_url_said_is_forgotten(world: World, client: Client):
    row = OnCallSchedule.objects.create(name="ops", url="https://old.example/", fetched='["bob"]', fetched_at=now())
    assert "bob" in client.get(url(row)).content.decode()
    assert save(client, url(row), hours=24).status_code == 302
    row.refresh_from_db()
    assert row.fetched == '["bob"]'
    assert save(client, url(row), url="https://new.example/").status_code == 302
    row.refresh_from_db()
    assert (row.url, row.fetched, row.fetched_at) == ("https://new.example/", "[]", None)


def hand(client: Client, to: User | None, ends: datetime, **more: Any) -> Any:
    window = {"ends_at_0": f"{ends:%F}", "ends_at_1": f"{ends:%T}"}
    return save(client, url(Delegation, "add"), delegate=to.pk if to else "", **window, **more)


def test_ones_own_approvals_are_handed_over(world: World, client: Client, new_entries: Fresh):
    assert hand(client, world.bob, now() + timedelta(days=2), person=str(world.owner.pk)).status_code == 302
    row = Delegation.objects.get()
    assert (row.person, row.delegate, row.made_by_name) == (world.ada, world.bob, "ada"), "never those of somebody else"
    assert [entry.event for entry in new_entries()] == ["delegation.created"]
    assert "in force" in client.get(url(Delegation, "changelist")).content.decode()


def test_a_window_that_is_too_long_is_said_on_the_page(world: World, client: Client, new_entries: Fresh):
    response = hand(client, world.bob, now() + timedelta(days=60))
    assert any("At most 30 days" in one for one in said(response))
    assert not Delegation.objects.exists()
    assert new_entries() == []


def test_a_delegation_is_ended_not_edited(world: World, client: Client, new_entries: Fresh):
    actor = Actor(user=world.bob.pk, user_name="bob")
    row = delegate(person=world.bob, to=world.owner, ends_at=now() + timedelta(days=1), operator=actor)
    new_entries()
    assert client.post(url(row), {"delegate": world.ada.pk}).status_code == 403
    assert client.post(url(row, "delete"), {"post": "yes"}).status_code == 403
    assert "bob" in client.get(url(row)).content.decode()
    act(client, Delegation, "end", row)
    row.refresh_from_db()
    assert row.ended_at is not None
    assert [entry.event for entry in new_entries()] == ["delegation.ended"]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "Name tools or choose access classes"),
        ({"tools": " , ,"}, "Name tools or choose access classes"),
        ({"tools": "git_*, ^(, x"}, "is not usable"),
        ({"tools": "^open"}, "starts with ^ and ends with $"),
        ({"access": ["admin"]}, "not one of the available choices"),
        ({"tools": "a", "max_minutes": 0}, "max_minutes"),
        ({"tools": "a\0b"}, "Null characters"),
        ({"tools": "a", "database": "shop"}, "one of them"),
        ({"server": "", "tools": "a"}, "one of them"),
        ({"tools": "a", "privileges": ["select"]}, "nothing of databases"),
        ({"server": "", "database": "shop", "database_objects": "public.*"}, "choose privileges"),
        ({"server": "", "database": "shop", "privileges": ["select"], "tools": "a"}, "nothing of servers"),
        ({"server": "", "database": "shop", "privileges": ["drop"]}, "not one of the available choices"),
        ({"server": "", "database": "shop", "privileges": ["select"], "database_objects": "^("}, "is not usable"),
        ({"tools": "a", "max_minutes": 60, "max_total_minutes": 30}, "longer than its whole life"),
    ],
)
def test_a_requestable_that_means_nothing_is_refused(fields: dict[str, Any], shown: str, world: World, client: Client):
    page = url(Requestable, "add")
    about = {"server": world.server.pk, "policy": world.policy.pk} | fields
    assert shown in errors(save(client, page, **about))
    assert Requestable.objects.count() == 1


def test_a_requestable_is_kept_as_lists(world: World, client: Client):
    fields = {"tools": "git_*,^x[0-9]+$ ,", "access": ["write", "destructive"]}
    save(client, url(Requestable, "add"), server=world.server.pk, policy=world.policy.pk, **fields)
    row = Requestable.objects.exclude(pk=world.requestable.pk).get()
    assert (row.tools, row.access) == ("git_*, ^x[0-9]+$", "write, destructive")
    assert client.get(url(row)).context["adminform"].form["access"].value() == ["write", "destructive"]


def test_privileges_on_a_database_may_be_asked_for(world: World, client: Client):
    fields = {"database": "shop", "database_objects": "public.products,stock.*", "privileges": ["select", "update"]}
    save(client, url(Requestable, "add"), policy=world.policy.pk, max_total_minutes=480, **fields)
    row = Requestable.objects.exclude(pk=world.requestable.pk).get()
    assert (row.server, row.database, row.database_objects) == (None, "shop", "public.products, stock.*")
    assert (row.privileges, row.max_total_minutes) == ("select, update", 480)
    assert client.get(url(row)).context["adminform"].form["privileges"].value() == ["select", "update"]


def test_only_a_superuser_says_who_the_manager_is(world: World, client: Client):
    assert save(client, url(world.owner), manager=world.bob.pk).status_code == 302
    world.owner.refresh_from_db()
    assert world.owner.manager == world.bob
    staff = User.objects.create_user("sam", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="change_user"))
    client.force_login(staff)
    save(client, url(world.owner), manager=staff.pk)
    world.owner.refresh_from_db()
    assert world.owner.manager == world.bob
