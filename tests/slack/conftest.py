from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import User
from jitaccess.notify.slack import asking
from jitaccess.notify.slack import client as calls
from jitaccess.notify.slack.cards import note_cards
from jitaccess.notify.slack.incoming import do_waiting
from jitaccess.notify.slack.models import SlackCard, SlackLink
from jitaccess.notify.slack.sending import send_due
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import now
from requests_app.card import card
from tests.cast import Cast
from tests.fakes.slack import server
from tests.fakes.slack.limits import wrong_view
from tests.fakes.slack.server import FakeSlack


@pytest.fixture(scope="module")
def running_slack() -> Iterator[FakeSlack]:
    fake = FakeSlack().start()
    yield fake
    fake.stop()


@pytest.fixture
def slack(running_slack: FakeSlack, settings: Any, monkeypatch: pytest.MonkeyPatch) -> FakeSlack:
    """A fake Slack, and an installation that is set up for it over HTTP."""
    # Versions of policy count up in an installation; here each test begins again.
    monkeypatch.setattr(asking, "SNAPSHOTS", SnapshotStore())
    monkeypatch.setattr(card, "SNAPSHOTS", SnapshotStore())
    running_slack.forget()
    calls.forget_pauses()
    settings.PUBLIC_URL = "https://desk.example"
    settings.EGRESS_ALLOW = ["127.0.0.1/32"]
    settings.SLACK_API_URL = running_slack.url
    settings.SLACK_BOT_TOKEN, settings.SLACK_APP_TOKEN = server.BOT, server.APP
    settings.SLACK_SIGNING_SECRET, settings.SLACK_APP_ID = server.SECRET, server.APP_ID
    settings.SLACK_TEAM_ID, settings.SLACK_ENTERPRISE_ID = server.TEAM, ""
    settings.SLACK_CHANNELS, settings.SLACK_MODE = [server.CHANNEL], "http"
    return running_slack


class Desk:
    """An installation with Slack: the people of the cast are linked as U1ANNA, U1BERT, U1OLGA (carl is not)."""

    def __init__(self, cast: Cast, slack: FakeSlack) -> None:
        self.cast, self.slack = cast, slack
        note_cards()  # from here on
        for person in (cast.anna, cast.bert, cast.olga):
            self.link(person)

    def link(self, person: User) -> SlackLink:
        return SlackLink.objects.create(
            user=person, team=server.TEAM, slack_user=name_of(person), slack_name=person.username, linked_at=now()
        )

    def catch_up(self) -> None:
        """Everything that workers do by and by."""
        while sequence() + note_cards() + do_waiting():
            pass
        for _ in range(3):  # what failed once, or waits for the card above it
            SlackCard.objects.filter(due_at__gt=now()).update(due_at=now() - timedelta(seconds=1))
            while send_due():
                pass

    def post(self, payload: dict[str, Any], *, path: str = "", **headers: str) -> HttpResponse:
        """As Slack calls, signed; then what was taken in is done."""
        body = self.slack.form(payload)
        path = path or ("/slack/commands" if "command" in payload else "/slack/interactive")
        answer: Any = Client().post(
            path,
            data=body,
            content_type="application/x-www-form-urlencoded",
            headers=self.slack.signed(body) | headers,
        )
        do_waiting()
        return answer

    def press(self, message: Any, button: str, person: User, **changes: Any) -> HttpResponse:
        return self.post(self.slack.press(message, button, name_of(person), **changes))

    def send(self, person: User, **values: Any) -> HttpResponse:
        """Fill in the form that was opened last, and send it."""
        return self.post(self.slack.send(self.slack.views[-1], name_of(person), **values))

    def ask(self, person: User, **values: Any) -> Any:
        """Fill in the form for access, and send it again as it was checked; returns the last answer."""
        answer: Any = self.send(person, **values)
        if answer.content and answer.json().get("response_action") == "update":
            view = answer.json()["view"]
            assert not wrong_view(view)
            self.slack.views.append({**view, "id": self.slack.views[-1]["id"]})
            answer = self.send(person, **values)
        return answer

    def told(self, person: User) -> list[str]:
        """What this person alone was told."""
        return [one["text"] for one in self.slack.ephemeral if one["user"] == name_of(person)]


def name_of(person: User) -> str:
    return f"U1{person.username.upper()}"


@pytest.fixture
def desk(cast: Cast, slack: FakeSlack) -> Desk:
    return Desk(cast, slack)


@pytest.fixture
def chosen() -> Callable[[str], dict[str, Any]]:
    """A select, filled in."""
    return lambda value: {"type": "static_select", "selected_option": {"value": value}}


def shown(message: Any) -> str:
    return json.dumps(message.body, ensure_ascii=False)
