"""Asking from Slack: `/access`, and more time from the message that says that access ends."""

from __future__ import annotations

from typing import Any

from jitaccess.catalog.services import classify_tool, import_tools
from jitaccess.notify.slack.chores import seldom
from requests_app.selectors import AccessRequest
from tests.cast import Cast, definition
from tests.fakes.slack.server import ensure_options
from tests.slack.conftest import Desk


def suggest(desk: Desk, typed: str, user: str = "U1OLGA", agent: str = "") -> dict:
    payload = desk.slack.send({"callback_id": "access"}, user)
    state = {"agent": {"value": {"type": "static_select", "selected_option": {"value": agent}}}} if agent else {}
    payload |= {"type": "block_suggestion", "action_id": "value", "block_id": "things", "value": typed}
    payload["view"]["state"] = {"values": state}
    answer = desk.post(payload).json()
    ensure_options(answer)
    return {one["text"]["text"]: one["value"] for one in answer["options"]}


def test_asking_from_a_form_files_a_request_of_that_person(desk: Desk, chosen) -> None:
    desk.post(desk.slack.command("U1OLGA"))
    (form,) = desk.slack.views
    assert form["callback_id"] == "access"
    found = suggest(desk, "COMMIT", agent=str(desk.cast.agent.pk))
    assert list(found) == ["git/git_commit"]
    desk.ask(
        desk.cast.olga,
        agent=chosen(str(desk.cast.agent.pk)),
        holder=chosen("agent"),
        things=[found["git/git_commit"]],
        seconds=chosen("600"),
        reason="Release notes",
    )
    asked = AccessRequest.objects.get()
    assert (asked.status, asked.filed_by, asked.seconds, asked.reason) == (
        "pending", desk.cast.olga, 600, "Release notes",
    )  # fmt: skip
    assert asked.tool_labels == ["git/git_commit"]
    desk.catch_up()
    (mine,) = desk.slack.to("U1OLGA")
    assert "Waiting" in mine.text
    assert set(mine.buttons) == {"open"}
    desk.cast.approve(asked)
    desk.catch_up()
    (mine,) = desk.slack.to("U1OLGA")
    assert "Active" in mine.text


def test_a_form_sent_twice_files_one_request(desk: Desk, chosen) -> None:
    desk.post(desk.slack.command("U1OLGA"))
    found = suggest(desk, "commit")
    values = {
        "agent": chosen(str(desk.cast.agent.pk)), "things": list(found.values()), "reason": "Release notes",
    }  # fmt: skip
    desk.ask(desk.cast.olga, **values)
    desk.ask(desk.cast.olga, **values)
    assert AccessRequest.objects.count() == 1


def test_nothing_found_is_one_option_and_asks_for_nothing(desk: Desk, chosen) -> None:
    assert suggest(desk, "no such tool") == {"Nothing found": "none"}
    assert suggest(desk, "commit", user="U1EVE") == {"Nothing found": "none"}  # linked to nobody
    assert suggest(desk, "commit", user="U1BERT") == {"Nothing found": "none"}  # has no agent
    desk.post(desk.slack.command("U1OLGA"))
    answer = desk.ask(desk.cast.olga, agent=chosen(str(desk.cast.agent.pk)), things=["none"], reason="Because")
    assert not AccessRequest.objects.exists()
    assert "Ask for 1 to" in answer.json()["errors"]["things"]


def test_at_most_a_hundred_options(desk: Desk, cast: Cast) -> None:
    many = [definition(f"git_{n:03}_{'x' * 100}") for n in range(130)]
    import_tools(server=cast.server, definitions=many, operator=cast.operator)
    for tool in cast.server.tools.filter(access="unclassified"):
        classify_tool(tool=tool, access="write", operator=cast.operator)
    assert len(suggest(desk, "")) == 100


def test_the_agent_of_somebody_else_is_not_asked_for(desk: Desk, chosen) -> None:
    found = suggest(desk, "commit")
    desk.post(desk.slack.command("U1OLGA"))
    form = desk.slack.views[-1]
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(found.values()), "reason": "Mine now"}
    answer: Any = desk.post(desk.slack.send(form, "U1BERT", **values))
    assert not AccessRequest.objects.exists()
    assert answer.json()["errors"] == {"agent": "You may ask for agents that you own or may use."}


def test_the_command_of_somebody_who_is_not_linked_or_has_no_agent_opens_nothing(desk: Desk) -> None:
    assert "/access link" in desk.post(desk.slack.command("U1CARL")).json()["text"]
    desk.post(desk.slack.command("U1BERT"))
    assert desk.told(desk.cast.bert) == ["There is no agent that you own or may use."]
    assert not desk.slack.views


def test_before_access_ends_its_owner_can_ask_for_more(desk: Desk, clock, chosen) -> None:
    desk.cast.requestable.max_total_minutes = 480
    desk.cast.requestable.save()
    grant = desk.cast.grant(seconds=1800)
    desk.catch_up()
    seldom()
    desk.catch_up()
    before = len(desk.slack.to("U1OLGA"))
    clock.shift(1800 - 270)
    seldom()
    seldom()
    desk.catch_up()
    warning = desk.slack.to("U1OLGA")[before]
    assert len(desk.slack.to("U1OLGA")) == before + 1
    assert "ends at" in warning.text
    desk.press(warning, "extend", desk.cast.olga)
    desk.send(desk.cast.olga, seconds=chosen("900"), reason="Not done yet")
    asked = AccessRequest.objects.get(extends=grant)
    assert (asked.status, asked.seconds, asked.filed_by) == ("pending", 900, desk.cast.olga)
    desk.catch_up()
    (card,) = [one for one in desk.slack.to("U1ANNA") if "more time" in one.text and "approve" in one.buttons]
    desk.press(card, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "approved"
    desk.catch_up()
    assert "was extended until" in warning.text
    assert "extend" not in warning.buttons


def test_a_short_access_ends_without_a_word(desk: Desk, clock) -> None:
    desk.cast.grant(seconds=600)
    desk.catch_up()
    before = len(desk.slack.messages)
    clock.shift(600 - 270)
    seldom()
    desk.catch_up()
    assert len(desk.slack.messages) == before


def test_who_switched_slack_off_for_outcomes_gets_none_there(desk: Desk) -> None:
    from jitaccess.notify.models import Preference

    Preference.objects.create(user=desk.cast.olga, group="outcome", channel="slack", on=False)
    desk.cast.approve(desk.cast.submit())
    desk.catch_up()
    assert not desk.slack.to("U1OLGA")
    assert desk.slack.to("C0OPS") == []  # decided before anybody was asked there
