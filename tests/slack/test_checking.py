"""The form of `/access` says what would come of it before it files anything, and what is wrong beside its field."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from jitaccess.notify.slack.models import SlackInbox
from jitaccess.store.clock import now
from requests_app.selectors import AccessRequest
from tests.cast import definition
from tests.fakes.slack.limits import texts_of, wrong_view
from tests.slack.conftest import Desk
from tests.slack.test_access import suggest


@pytest.fixture
def opened(desk: Desk) -> Desk:
    desk.post(desk.slack.command("U1OLGA"))
    return desk


def view_of(desk: Desk, **values: Any) -> dict[str, Any]:
    """The form as it comes back from being checked."""
    answer: Any = desk.send(desk.cast.olga, **values)
    found = answer.json()
    assert found["response_action"] == "update", found
    assert not wrong_view(found["view"])
    view: dict[str, Any] = found["view"]
    desk.slack.views.append({**view, "id": desk.slack.views[-1]["id"]})
    return view


def words(view: dict[str, Any]) -> str:
    return "\n".join(one["text"] for one in texts_of(view["blocks"]))


def block(view: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in view["blocks"] if one.get("block_id") == name)


def call_of(desk: Desk, tool: str) -> dict[str, Any]:
    payload = desk.slack.send({"callback_id": "access"}, "U1OLGA")
    payload |= {"type": "block_suggestion", "action_id": "value", "block_id": "call", "value": tool}
    (found,) = desk.post(payload).json()["options"]  # type: ignore[attr-defined]
    return {"type": "external_select", "selected_option": found}


def test_checking_says_what_is_added_and_who_decides_and_files_nothing(opened: Desk, chosen) -> None:
    desk = opened
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(suggest(desk, "commit").values())}
    values |= {"reason": "Release notes", "seconds": chosen("600")}
    view = view_of(desk, **values)
    text = words(view)
    assert "Would add: git/git_commit (write) with any arguments" in text
    assert "can decide: anna, bert" in text
    assert "For: 10 min" in text
    assert view["submit"]["text"] == "Ask for it"
    assert not AccessRequest.objects.exists()
    assert not SlackInbox.objects.filter(kind="view_submission").exists()
    assert block(view, "reason")["element"]["initial_value"] == "Release notes"
    assert block(view, "seconds")["element"]["initial_option"]["value"] == "600"
    assert len(block(view, "things")["element"]["initial_options"]) == 1


def test_what_is_changed_after_the_check_is_checked_again(opened: Desk, chosen) -> None:
    desk = opened
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(suggest(desk, "commit").values())}
    view_of(desk, **values, reason="One")
    view_of(desk, **values, reason="Another")
    assert not AccessRequest.objects.exists()
    desk.send(desk.cast.olga, **values, reason="Another")
    assert AccessRequest.objects.get().reason == "Another"


def test_an_exact_call_with_a_later_start_is_filed(opened: Desk, chosen) -> None:
    desk = opened
    tool = desk.cast.tools["git_reset"]
    schema = {"type": "object", "required": ["mode"], "properties": {"mode": {"type": "string"}}}
    tool.definition = json.dumps(definition("git_reset", inputSchema=schema))
    tool.save()
    start = (now() + timedelta(days=1)).replace(microsecond=0)
    values = {
        "agent": chosen(str(desk.cast.agent.pk)),
        "call": call_of(desk, "reset"),
        "arguments": '{"mode": "soft"}',
        "starts": {"type": "datetimepicker", "selected_date_time": int(start.timestamp())},
        "uses": "2",
        "reason": "One reset",
    }
    view = view_of(desk, **values)
    assert "with exactly these arguments" in words(view)
    assert "It has: mode (needed)" in words(view)
    link = next(one for one in view["blocks"] if one["type"] == "actions")["elements"][0]["url"]
    assert link.startswith("https://desk.example/requests/new/?agent=demo-agent&call_tool=git%2Fgit_reset")
    assert "soft" not in link
    desk.send(desk.cast.olga, **values)
    asked = AccessRequest.objects.get()
    (item,) = asked.parsed_items
    assert (item["kind"], item["arguments"]["value"]) == ("call", {"mode": "soft"})
    assert (asked.max_uses, asked.starts_at) == (2, start)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"arguments": "{"}, "arguments"),
        ({"arguments": '{"a": 1}'}, "arguments"),  # and no tool to call with them
        ({"reason": " "}, "reason"),
        ({"uses": "x"}, "things"),
        ({"starts": {"type": "datetimepicker", "selected_date_time": 5}}, "starts"),
        ({"seconds": {"type": "static_select", "selected_option": {"value": "604800"}}}, "seconds"),
        ({"things": []}, "things"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(opened: Desk, chosen, wrong: dict[str, Any], field: str) -> None:
    desk = opened
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(suggest(desk, "commit").values())}
    answer: Any = desk.send(desk.cast.olga, **(values | {"reason": "Because"} | wrong))
    assert answer.json()["response_action"] == "errors"
    assert list(answer.json()["errors"]) == [field]
    assert not AccessRequest.objects.exists()


def test_a_rule_that_approves_by_itself_is_said_before(opened: Desk, chosen) -> None:
    desk = opened
    desk.cast.change_policy(rules="[{name: small, auto_approve: true}]")
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(suggest(desk, "commit").values())}
    text = words(view_of(desk, **values, reason="Because"))
    assert "Approved at once, by rule" in text
    assert "nobody would be asked" in text


def test_hostile_text_comes_back_as_plain_text(opened: Desk, chosen) -> None:
    desk = opened
    values = {"agent": chosen(str(desk.cast.agent.pk)), "things": list(suggest(desk, "commit").values())}
    view = view_of(desk, **values, reason="<!channel> <https://evil.example|x>\u202e")
    assert all(one["type"] == "plain_text" for one in texts_of(view["blocks"]))


def test_whoever_is_not_linked_is_checked_nothing(opened: Desk, chosen) -> None:
    desk = opened
    sent = desk.slack.send(desk.slack.views[-1], "U1EVE", agent=chosen(str(desk.cast.agent.pk)), reason="Mine")
    answer: Any = desk.post(sent)
    assert not answer.content
    assert not AccessRequest.objects.exists()
