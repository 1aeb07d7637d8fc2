"""Reviewing tools: what was looked at is what is pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Tool
from jitaccess.catalog.services import import_tools
from tests.admin.conftest import World, act, definition, url

Fresh = Callable[[], list[Entry]]


def change(world: World, **more: Any) -> None:
    """The server changes what it says about read_file; the rest stays."""
    offered = [definition("read_file", **more), definition("write_file")]
    import_tools(server=world.server, definitions=offered, operator=Actor.system("test"))


def test_classifying_pins_the_definition_that_was_shown(world: World, client: Client):
    form = client.get(url(world.read)).context["form"]
    client.post(url(world.read), {"access": "read", "digest": form["digest"].value()})
    world.read.refresh_from_db()
    assert (world.read.access, world.read.pin, world.read.quarantined) == ("read", world.read.digest, False)


def test_a_definition_that_changed_while_it_was_reviewed_is_not_classified(
    world: World, client: Client, new_entries: Fresh
):
    shown = client.get(url(world.read)).context["form"]["digest"].value()
    change(world, title="now with teeth")
    response = client.post(url(world.read), {"access": "read", "digest": shown})
    assert response.status_code == 200
    page = response.content.decode()
    assert "changed while it was being reviewed" in page
    assert "now with teeth" in page
    world.read.refresh_from_db()
    assert (world.read.access, world.read.pin) == ("unclassified", "")
    assert "tool.classified" not in [entry.event for entry in new_entries()]

    again = response.context["form"]["digest"].value()
    assert client.post(url(world.read), {"access": "read", "digest": again}).status_code == 302
    world.read.refresh_from_db()
    assert world.read.pin == world.read.digest == again != shown


@pytest.mark.parametrize("sent", [{}, {"access": "read"}, {"digest": "x"}, {"access": "admin", "digest": "x"}])
def test_nothing_is_classified_without_the_digest_of_what_was_shown(sent: dict[str, str], world: World, client: Client):
    assert client.post(url(world.read), sent).status_code == 200
    world.read.refresh_from_db()
    assert (world.read.access, world.read.pin) == ("unclassified", "")


def test_what_hides_in_a_definition_is_made_visible(world: World, client: Client):
    change(world, title="harm\u202eless \x1b[8m\u200b<script>alert(1)</script>")
    page = client.get(url(world.read)).content.decode()
    assert r"harm\u{202e}less" in page
    assert r"\u{200b}" in page
    assert "cannot be seen" in page
    assert "&lt;script&gt;alert" in page
    assert not [mark for mark in ("\u202e", "\u200b", "\x1b", "<script>alert") if mark in page]


@pytest.mark.parametrize("title", ["x" * 300_000, "\u202e" * 40_000, "x" + "\u202e" * 40_000])
def test_what_cannot_be_shown_whole_cannot_be_classified(title: str, world: World, client: Client):
    change(world, title=title)
    page = client.get(url(world.read))
    assert "too long to be shown whole" in page.content.decode()
    assert 'name="digest"' not in page.content.decode()
    confirm = act(client, Tool, "classify_as_read", world.read).content.decode()
    assert "digest-" not in confirm


def test_a_bulk_classification_shows_the_definitions_first(world: World, client: Client):
    page = act(client, Tool, "classify_as_destructive", world.read, world.write)
    assert page.status_code == 200
    assert "does read_file" in page.content.decode()
    assert "does write_file" in page.content.decode()
    assert Tool.objects.filter(access="destructive").count() == 0

    digests = {f"digest-{tool.pk}": tool.digest for tool in (world.read, world.write)}
    act(client, Tool, "classify_as_destructive", world.read, world.write, confirmed="yes", **digests)
    assert Tool.objects.filter(access="destructive").count() == 2


def test_a_bulk_classification_leaves_out_what_changed_meanwhile(world: World, client: Client):
    digests = {f"digest-{tool.pk}": tool.digest for tool in (world.read, world.write)}
    change(world, title="now with teeth")
    response = act(client, Tool, "classify_as_read", world.read, world.write, confirmed="yes", **digests)
    page = client.get(response.url).content.decode()
    assert "files/read_file changed while it was being reviewed" in page
    assert "Classified as read: 1." in page
    world.read.refresh_from_db()
    world.write.refresh_from_db()
    assert (world.read.access, world.read.pin) == ("unclassified", "")
    assert world.write.access == "read"


def test_a_confirmation_without_digests_classifies_nothing(world: World, client: Client):
    act(client, Tool, "classify_as_read", world.read, world.write, confirmed="yes")
    assert not Tool.objects.filter(access="read").exists()


@pytest.mark.parametrize(
    ("state", "expected"),
    [("unreviewed", {"new_one"}), ("changed", {"write_file"}), ("reviewed", {"read_file"}), ("gone", {"old_one"})],
)
def test_the_list_tells_the_states_apart(state: str, expected: set[str], world: World, client: Client):
    client.post(url(world.read), {"access": "read", "digest": world.read.digest})
    kept, old = definition("read_file"), definition("old_one")
    offered = [kept, definition("write_file", title="other"), definition("new_one")]
    for tools in ([*offered, old], offered):
        import_tools(server=world.server, definitions=tools, operator=Actor.system("test"))
    listed = client.get(url(Tool, "changelist"), {"state": state}).context["cl"].result_list
    assert {tool.name for tool in listed} == expected
