"""Every way in: signature over the raw body, age, app, workspace, organisation, guests; and nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from jitaccess.notify.slack.models import LinkCode, SlackInbox
from tests.fakes.slack.server import TEAM
from tests.slack.conftest import Desk

FORM = "application/x-www-form-urlencoded"
PATHS = ("/slack/interactive", "/slack/commands")


@pytest.fixture
def payload(desk: Desk) -> dict[str, Any]:
    """A click that would approve."""
    desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    return desk.slack.press(mine, "approve", "U1ANNA")


def body_for(desk: Desk, path: str, payload: dict[str, Any]) -> bytes:
    return desk.slack.form(payload if path.endswith("interactive") else desk.slack.command("U1ANNA", "link"))


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_signed_by_slack_just_now_is_refused(desk: Desk, payload, path: str) -> None:
    body = body_for(desk, path, payload)
    wrong = {
        "unsigned": {},
        "by another key": desk.slack.signed(body, secret="another"),
        "old": desk.slack.signed(body, age=400),
        "from the future": desk.slack.signed(body, age=-400),
        "of another body": desk.slack.signed(body + b"&"),
        "no number": desk.slack.signed(body) | {"X-Slack-Request-Timestamp": "1e9"},
    }
    for how, headers in wrong.items():
        answer = Client().post(path, data=body, content_type=FORM, headers=headers)
        assert answer.status_code == 401, how
    assert not SlackInbox.objects.exists()
    assert not LinkCode.objects.exists()


def test_a_right_signature_from_elsewhere_is_refused(desk: Desk, payload) -> None:
    elsewhere: list[dict[str, Any]] = [
        {"api_app_id": "A0OTHER"},
        {"team": {"id": "T0OTHER"}},
        {"enterprise": {"id": "E0OTHER"}},
        {"user": {"id": "U1ANNA", "team_id": "T0GUEST"}},
        {"is_ext_shared_channel": True},
        {"api_app_id": None},
        {"team": None},
        {"user": None},
        {"user": {"id": "U1ANNA; DROP", "team_id": TEAM}},
    ]
    for change in elsewhere:
        assert desk.post(payload | change).status_code == 401, change
    assert not SlackInbox.objects.exists()


def test_a_command_from_elsewhere_is_refused(desk: Desk) -> None:
    for change in ({"api_app_id": "A0OTHER"}, {"team_id": "T0OTHER"}, {"enterprise_id": "E0OTHER"}):
        assert desk.post(desk.slack.command("U1ANNA", "link") | change).status_code == 401
    assert not LinkCode.objects.exists()


def test_other_ways_in_look_as_closely(desk: Desk) -> None:
    for kind in ("block_suggestion", "view_submission"):
        sent = desk.slack.send({"callback_id": "access"}, "U1ANNA") | {"type": kind, "team": {"id": "T0OTHER"}}
        assert desk.post(sent).status_code == 401
    assert not SlackInbox.objects.exists()


def test_an_empty_setting_lets_nobody_in(desk: Desk, payload, settings) -> None:
    for name in ("SLACK_APP_ID", "SLACK_TEAM_ID", "SLACK_SIGNING_SECRET", "SLACK_BOT_TOKEN"):
        before = getattr(settings, name)
        setattr(settings, name, "")
        assert desk.post(payload).status_code == 404
        setattr(settings, name, before)
    assert not SlackInbox.objects.exists()


def test_of_an_organisation_only_the_one_that_is_set(desk: Desk, payload, settings) -> None:
    settings.SLACK_ENTERPRISE_ID = "E0OURS"
    assert desk.post(payload).status_code == 401
    ours = {"enterprise": {"id": "E0OURS"}, "user": {"id": "U1ANNA", "team_id": "E0OURS"}}
    assert desk.post(payload | ours | {"user": {"id": "U1ANNA", "team_id": "E0OTHER"}}).status_code == 401
    assert desk.post(payload | ours).status_code == 200


def test_by_socket_mode_nothing_is_taken_over_http(desk: Desk, payload, settings) -> None:
    settings.SLACK_MODE = "socket"
    assert desk.post(payload).status_code == 404
    assert not SlackInbox.objects.exists()


def test_rubbish_that_is_signed_is_refused(desk: Desk) -> None:
    nested = b"payload=" + b"[" * 60_000
    for body in (b"", b"payload=", b"payload=[]", b"payload=%7B", nested, b"\xff\xfe", b"payload=1"):
        answer = Client().post("/slack/interactive", data=body, content_type=FORM, headers=desk.slack.signed(body))
        assert answer.status_code in {400, 401}
    assert not SlackInbox.objects.exists()


def test_a_click_on_nothing_does_nothing(desk: Desk, payload) -> None:
    for actions in ([], "x", [{"action_id": "approve", "value": 7, "action_ts": "1"}], [7]):
        assert desk.post(payload | {"actions": actions}).status_code in {200, 400}
    assert not SlackInbox.objects.exists()


def test_a_button_that_is_not_ours_does_nothing(desk: Desk, payload) -> None:
    values = ("x", "||approve|", "a" * 3000, "00000000-0000-0000-0000-000000000000|d|approve|x")
    for value in values:
        payload["actions"][0]["value"] = value
        desk.post(payload)
    assert desk.told(desk.cast.anna) == ["This button is not one of jitaccess."] * 4
    assert not SlackInbox.objects.filter(done_at=None).exists()


def test_a_click_on_open_is_acknowledged_and_nothing_more(desk: Desk, payload) -> None:
    payload["actions"] = [{"action_id": "open", "type": "button", "action_ts": "1", "block_id": "b"}]
    assert desk.post(payload).status_code == 200
    assert not SlackInbox.objects.exists()


def test_what_is_kept_is_sealed_and_holds_no_address_to_answer_to(desk: Desk, payload) -> None:
    from jitaccess.notify.slack.incoming import take_in
    from jitaccess.store.sealing import ring

    take_in("block_actions", payload)
    row = SlackInbox.objects.get()
    assert "approve" not in row.payload
    kept = json.loads(ring().open(row.payload, context=f"slack inbox {row.key}"))
    assert not {"response_url", "token", "user"} & kept.keys()


def test_slack_pages_are_not_for_get(desk: Desk) -> None:
    assert [Client().get(path).status_code for path in PATHS] == [405, 405]
