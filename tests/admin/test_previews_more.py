"""Previews of ceilings, of ends of bindings, of schedules and of a server's options; nothing is written by looking."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.models import AccessClass, Server
from jitaccess.catalog.services import classify_tool
from jitaccess.policy.models import OnCallSchedule, RoleBinding
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from jitaccess.store.clock import now
from tests.admin.conftest import READER, World, act, errors, save, url
from tests.admin.test_previews import called, look

SYSTEM = Actor.system("test")
DESTROYER = READER.replace("reader", "destroyer").replace("[read]", "[destructive]")


@pytest.fixture
def reading(world: World) -> None:
    """A tool that the role covers, called twice."""
    classify_tool(tool=world.read, access=AccessClass.READ, operator=SYSTEM)
    called(world, count=2)


@pytest.mark.usefixtures("reading")
def test_a_ceiling_shows_the_calls_that_would_be_beyond_it_and_is_made_after_that(world: World, client: Client) -> None:
    other = save_role(document=DESTROYER, operator=SYSTEM)
    before = RoleBinding.objects.count()
    given = {"role": other.pk, "ceiling": "on", "agent": world.agent.pk}
    response, _ = look(client, url(RoleBinding, "add"), **given)
    impact = response.context["held"].impact
    assert [(one.tool, one.count, one.allowed) for one in impact.calls] == [("read_file", 2, False)]
    assert impact.agents == (world.agent.name,)
    assert ("read_file", "beyond it, so refused") in [(one.tool, one.after) for one in impact.tools]
    assert RoleBinding.objects.count() == before
    assert save(client, url(RoleBinding, "add"), **given).status_code == 302
    assert RoleBinding.objects.latest("pk").origin == "ceiling"


def test_a_ceiling_of_everybody_that_allows_nothing_is_refused_when_it_is_made(world: World, client: Client) -> None:
    role = save_role(document="kind: role\nversion: v1\nmetadata: {name: nothing}\nspec: {}\n", operator=SYSTEM)
    response, _ = look(client, url(RoleBinding, "add"), role=role.pk, ceiling="on", everyone="agents")
    assert response.context["held"].impact.refusals
    assert not RoleBinding.objects.filter(origin="ceiling").exists()


def test_everybody_gets_a_ceiling_here_but_no_role(world: World, client: Client) -> None:
    response = save(client, url(RoleBinding, "add"), role=world.role.pk, everyone="agents")
    assert "default roles" in errors(response)


@pytest.mark.usefixtures("reading")
def test_the_end_of_a_binding_is_looked_at_first(world: World, client: Client) -> None:
    RoleBinding.objects.filter(origin="default").update(ended_at=now())
    sent = {"action": "end", "_selected_action": [world.standing.pk]}
    page = client.post(url(RoleBinding, "changelist"), sent)
    assert page.status_code == 200
    text = page.content.decode()
    assert "Nothing is done yet" in text
    impact = page.context["impact"]
    assert [(one.tool, one.count, one.allowed) for one in impact.calls] == [("read_file", 2, False)]
    assert not RoleBinding.objects.get(pk=world.standing.pk).ended_at
    for token in ("", "x", page.context["token"] + "x"):
        again = client.post(url(RoleBinding, "changelist"), sent | {"previewed": token})
        assert again.status_code == 200
    assert not Entry.objects.filter(event="binding.ended").exists()
    assert client.post(url(RoleBinding, "changelist"), sent | {"previewed": page.context["token"]}).status_code == 302
    assert RoleBinding.objects.get(pk=world.standing.pk).ended_at


@pytest.mark.usefixtures("reading")
def test_the_end_of_a_ceiling_says_what_becomes_allowed(world: World, client: Client) -> None:
    other = save_role(document=DESTROYER, operator=SYSTEM)
    ceiling = bind_role(role=other, agent=world.agent, origin=RoleBinding.Origin.CEILING, operator=SYSTEM)
    page = client.post(url(RoleBinding, "changelist"), {"action": "end", "_selected_action": [ceiling.pk]})
    assert [(one.tool, one.allowed) for one in page.context["impact"].calls] == [("read_file", True)]
    act(client, RoleBinding, "end", ceiling)
    assert RoleBinding.objects.get(pk=ceiling.pk).ended_at


def test_a_token_for_other_rows_ends_nothing(world: World, client: Client) -> None:
    ceiling = bind_role(role=world.role, agent=world.agent, origin=RoleBinding.Origin.CEILING, operator=SYSTEM)
    place = url(RoleBinding, "changelist")
    page = client.post(place, {"action": "end", "_selected_action": [ceiling.pk]})
    sent = {"action": "end", "_selected_action": [world.standing.pk], "previewed": page.context["token"]}
    assert client.post(place, sent).status_code == 200
    assert not RoleBinding.objects.filter(pk=world.standing.pk, ended_at__isnull=False).exists()


def test_a_schedule_shows_whose_turn_it_would_be_and_who_asks_it(world: World, client: Client) -> None:
    start = (now() - timedelta(hours=1)).replace(microsecond=0)
    row = OnCallSchedule.objects.create(name="primary", rota='["ada","bob"]', starts_at=start, hours=24)
    document = world.policy.document.replace("people: [", 'people: ["schedule:primary", ', 1)
    save_policy(document=document, operator=SYSTEM, policy=world.policy)
    moment = {"starts_at_0": f"{start:%Y-%m-%d}", "starts_at_1": f"{start:%H:%M:%S}"}
    response, data = look(client, url(row), rota="bob, ada", **moment)
    impact = response.context["held"].impact
    assert (impact.turns[0].before, impact.turns[0].after) == ("ada", "bob")
    assert (impact.turns[1].before, impact.turns[1].after) == ("bob", "ada")
    assert impact.turns[1].at == start + timedelta(hours=24)
    assert impact.policies == (world.policy.name,)
    row.refresh_from_db()
    assert row.rota == '["ada","bob"]'
    response = client.post(url(row), data | {"previewed": response.context["held"].token})
    assert response.status_code == 302
    row.refresh_from_db()
    assert row.rota == '["bob","ada"]'


def test_a_schedule_that_leaves_nobody_on_call_says_so(world: World, client: Client) -> None:
    row = OnCallSchedule.objects.create(name="primary", rota='["ada"]', starts_at=now() - timedelta(hours=1), hours=24)
    tomorrow = now() + timedelta(days=1)
    response, _ = look(client, url(row), starts_at_0=f"{tomorrow:%Y-%m-%d}", starts_at_1=f"{tomorrow:%H:%M:%S}")
    assert "Nobody would be on call now." in response.context["held"].impact.warnings


def finished(world: World, ms: int, size: int) -> None:
    record(
        Facts(
            event=Event.CALL_COMPLETED, actor=Actor(agent=world.agent.pk), outcome=Outcome.ALLOWED,
            server=world.server.pk, server_name="files", tool="read_file", data={"ms": ms, "bytes": size},
        )
    )  # fmt: skip


def test_options_of_a_server_are_measured_by_its_calls(world: World, client: Client) -> None:
    Server.objects.filter(pk=world.server.pk).update(transport="http", url="https://files.example/mcp")
    for ms, size in ((100, 10), (9_000, 10), (100, 5_000)):
        finished(world, ms, size)
    changes: dict[str, Any] = {"call_seconds": 5, "max_result_bytes": 2048}
    response, _ = look(client, url(world.server), **changes)
    told = {one.name: one for one in response.context["held"].impact.options}
    assert told["call_seconds"].then == "1 of 3 calls took longer"
    assert told["max_result_bytes"].then == "1 of 3 results were larger"
    assert Server.objects.get(pk=world.server.pk).call_seconds == 60
    assert save(client, url(world.server), **changes).status_code == 302
    assert Server.objects.get(pk=world.server.pk).call_seconds == 5


def test_a_server_that_only_gets_another_description_is_saved_at_once(world: World, client: Client) -> None:
    Server.objects.filter(pk=world.server.pk).update(transport="http", url="https://files.example/mcp")
    response = client.post(url(world.server), {**_filled(client, world), "description": "Files of the team"})
    assert response.status_code == 302


def _filled(client: Client, world: World) -> dict[str, Any]:
    from tests.admin.conftest import filled

    return dict(filled(client.get(url(world.server))))
