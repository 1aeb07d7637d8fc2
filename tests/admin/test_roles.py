"""Role documents in the admin: every mistake is a sentence at the field, and none a server error."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.policy.models import Role, RoleBinding, RoleVersion
from tests.admin.conftest import READER, World, errors, save, url

Fresh = Callable[[], list[Entry]]

MISTAKES = {
    "an unknown key": (READER.replace("access: [read]", "acess: [read]"), "line 7", "spec.allow[1].acess", "known are"),
    "a class that is none": (READER.replace("[read]", "[admin]"), "line 7", "spec.allow[1].access[1]", "one of read"),
    "a bad pattern": (READER.replace("[files]", '["^("]'), "line 6", "spec.allow[1].servers[1]", "a name, a glob"),
    "a missing dash": (READER.replace("- servers", "servers").replace("      access", "    access"), "line 6", "spec.allow", "a dash"),
    "a tab": (READER.replace("    - ", "\t- "), "line 6", "", "well-formed YAML"),
    "no document": ("   \n", "", "", ""),
    "leading blank lines count": ("\n\n" + READER.replace("role\n", "rule\n", 1), "line 3", "kind", "`role`"),
}  # fmt: skip
HOSTILE = {
    "an alias bomb": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "rules multiplied by aliases": READER.replace("- servers", "- &r {servers: &s [" + "a," * 10_000 + "a], tools: *s}\n    - *r\n" + "    - *r\n" * 3000 + "    - servers"),
    "an alias to itself": "&a [*a]",
    "deep lists": "[" * 60_000,
    "deep mappings": "{a: " * 12_000,
    "nul": READER + "\0",
    "a megabyte": "# " + "x" * 1_000_000,
    "a character beyond Unicode": 'kind: "\\UFFFFFFFF"',
    "another one": 'kind: "\\U00110000"',
    "a surrogate for a name": READER.replace("name: reader", 'name: "\\ud800"'),
    "a name of words": READER.replace("name: reader", "name: Two Words"),
    "an endless name": READER.replace("name: reader", "name: " + "a" * 4000),
    "a python object": "!!python/object/apply:os.system [id]",
    "two documents": READER + "---\n" + READER,
    "a list for a key": "? [a, b]\n: c",
    "broken percent escapes": "kind: !<%ff> x",
    "control characters": "kind: \x1b[31m",
    "no mapping": "just text",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_shown_with_line_path_and_what_was_expected(
    mistake: tuple[str, str, str, str], world: World, client: Client, new_entries: Fresh
):
    document, line, path, expected = mistake
    for page in (url(Role, "add"), url(world.role)):
        response = save(client, page, document=document.replace("\n", "\r\n"))
        said = " ".join(response.context["adminform"].form.errors["document"])
        assert line in said
        assert path in said
        assert expected in said
    assert new_entries() == []
    assert RoleVersion.objects.count() == 1


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_refused_like_any_other_mistake(
    document: str, world: World, client: Client, new_entries: Fresh
):
    for page in (url(Role, "add"), url(world.role)):
        assert save(client, page, document=document).context["adminform"].form.errors["document"]
    assert new_entries() == []
    assert Role.objects.count() == 1


def test_a_new_role_is_its_first_version(world: World, client: Client):
    document = READER.replace("reader", "other")
    assert save(client, url(Role, "add"), document=document.replace("\n", "\r\n")).status_code == 302
    role = Role.objects.get(name="other")
    assert (role.head, role.document, role.versions.get().saved_by) == (1, document, "ada")


def test_a_changed_role_is_a_new_version_and_the_old_one_is_kept(world: World, client: Client):
    save(client, url(world.role), document=READER.replace("[read]", "[write]"))
    world.role.refresh_from_db()
    assert world.role.head == 2
    assert world.role.versions.get(version=1).document == READER
    assert "[write]" in world.role.versions.get(version=2).document


def test_adding_a_role_does_not_change_one_of_the_same_name(world: World, client: Client):
    said = errors(save(client, url(Role, "add"), document=READER.replace("[read]", "[destructive]")))
    assert "there is a role named reader already" in said
    world.role.refresh_from_db()
    assert (world.role.head, world.role.document) == (1, READER)


def test_a_role_keeps_its_name(world: World, client: Client):
    assert "names are for life" in errors(save(client, url(world.role), document=READER.replace("reader", "writer")))
    assert not Role.objects.filter(name="writer").exists()


def test_a_role_that_somebody_had_is_not_deleted_and_it_says_why(world: World, client: Client, new_entries: Fresh):
    page = client.get(url(world.role, "delete")).content.decode()
    assert "protected related objects" in page
    assert "bot: reader" in page
    client.post(url(world.role, "delete"), {"post": "yes"})
    RoleBinding.objects.exclude(origin="grant").update(ended_at="2030-01-01T00:00Z")
    client.post(url(world.role, "delete"), {"post": "yes"})
    assert Role.objects.filter(pk=world.role.pk).exists()
    assert new_entries() == []


def test_a_default_role_is_for_every_agent_or_every_user(world: World, client: Client):
    said = errors(save(client, url(RoleBinding, "add"), role=world.role.pk))
    assert "exactly one of agent, user, team and everybody" in said
    page = url(RoleBinding, "add").replace("rolebinding", "defaultrole")
    assert "required" in errors(save(client, page, everyone="", role=world.role.pk))
    assert "already" in errors(save(client, page, everyone="agents", role=world.role.pk))
    assert save(client, page, everyone="users", role=world.role.pk).status_code == 302
    made = RoleBinding.objects.get(everyone="users")
    assert (made.origin, made.role, made.agent, made.user, made.team) == ("default", world.role, None, None, None)


@pytest.mark.parametrize("several", [("agent", "team"), ("agent", "user"), ("agent", "user", "team"), ()])
def test_a_standing_binding_has_one_subject(several: tuple[str, ...], world: World, client: Client):
    rows = {"agent": world.agent.pk, "user": world.bob.pk, "team": world.team.pk}
    before = RoleBinding.objects.count()
    chosen = {name: rows[name] for name in several}
    assert "exactly one" in errors(save(client, url(RoleBinding, "add"), role=world.role.pk, **chosen))
    assert RoleBinding.objects.count() == before


def test_a_standing_binding_does_not_end_in_the_past(world: World, client: Client):
    past = {"expires_at_0": "2020-01-01", "expires_at_1": "00:00"}
    assert "past" in errors(save(client, url(RoleBinding, "add"), role=world.role.pk, user=world.bob.pk, **past))


def test_the_entry_of_a_deleted_role_keeps_its_text(world: World, client: Client, new_entries: Fresh):
    save(client, url(Role, "add"), document=READER.replace("reader", "spare"))
    client.post(url(Role.objects.get(name="spare"), "delete"), {"post": "yes"})
    assert not Role.objects.filter(name="spare").exists()
    removed = json.loads(new_entries()[-1].data)
    assert removed["action"] == "removed"
    assert "servers: [files]" in removed["changes"]["document"]["from"]
