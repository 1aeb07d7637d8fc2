"""Socket Mode, with the SDK's client on a real connection: the same as over HTTP, and connections that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jitaccess.audit.sequencer import sequence
from jitaccess.kernel.errors import Forbidden
from jitaccess.notify.slack import socket as socket_mode
from jitaccess.notify.slack.client import web_client
from jitaccess.notify.slack.incoming import do_waiting
from jitaccess.notify.slack.models import SlackCard, SlackInbox
from jitaccess.notify.slack.socket import Listener
from tests.cast import Cast
from tests.fakes.slack.server import APP, FakeSlack
from tests.slack.conftest import Desk, name_of

pytestmark = pytest.mark.django_db(transaction=True)


def until(true: Callable[[], Any], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def listening(cast: Cast, slack: FakeSlack, settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    settings.SLACK_MODE = "socket"
    monkeypatch.setattr(socket_mode, "PING_SECONDS", 1)
    listener = Listener()
    listener.start()
    until(lambda: slack.sockets and listener.connected)
    yield Desk(cast, slack)
    listener.stop()


def test_a_click_by_socket_mode_is_on_record_before_it_is_acknowledged_and_done(listening: Desk) -> None:
    asked = listening.cast.submit()
    listening.catch_up()
    (mine,) = listening.slack.to("U1ANNA")
    name = listening.slack.envelope("interactive", listening.slack.press(mine, "approve", "U1ANNA"))
    until(lambda: name in listening.slack.acks)
    assert SlackInbox.objects.count() == 1
    until(lambda: not SlackInbox.objects.filter(done_at=None).exists())
    asked.refresh_from_db()
    assert asked.status == "approved"
    # The same envelope again, on a connection of its own: Slack heard no answer.
    listening.slack.disconnect()
    until(lambda: len(listening.slack.sockets) >= 2)
    payload = listening.slack.press(mine, "approve", "U1ANNA")
    again = [listening.slack.envelope("interactive", payload) for _ in range(2)]
    until(lambda: all(one in listening.slack.acks for one in again))
    until(lambda: not SlackInbox.objects.filter(done_at=None).exists())
    assert SlackInbox.objects.count() == 2
    assert asked.decisions.count() == 1
    # What has an answer has it in the acknowledgement.
    name = listening.slack.envelope("slash_commands", listening.slack.command("U1ANNA", "link"))
    until(lambda: name in listening.slack.acks)
    assert "https://desk.example/slack/link/" in listening.slack.acks[name]["text"]
    # From elsewhere: neither acknowledged nor on record.
    refused = listening.slack.envelope("interactive", payload | {"api_app_id": "A0OTHER"})
    told = listening.slack.envelope("slash_commands", listening.slack.command("U1ANNA", "help"))
    until(lambda: told in listening.slack.acks)
    assert refused not in listening.slack.acks
    assert SlackInbox.objects.count() == 2


def test_two_people_at_once_in_slack_and_on_the_web_are_one_outcome_and_every_copy_says_it(
    cast: Cast, slack: FakeSlack
) -> None:
    from jitaccess.notify.slack.incoming import take_in
    from tests.races import race

    desk = Desk(cast, slack)
    asked = cast.submit()
    desk.catch_up()
    (mine,) = slack.to("U1ANNA")
    take_in("block_actions", slack.press(mine, "approve", "U1ANNA"))
    race(lambda: cast.deny(asked, cast.bert), do_waiting)
    do_waiting()
    until(lambda: not SlackInbox.objects.filter(done_at=None).exists())
    asked.refresh_from_db()
    assert asked.status in {"approved", "denied"}
    assert asked.decisions.count() == 1
    desk.catch_up()
    said = "Active" if asked.status == "approved" else "Denied"
    for place in ("C0OPS", "U1ANNA", "U1BERT"):
        (copy,) = slack.to(place)
        assert said in copy.text
        assert set(copy.buttons) == {"open"}


def test_the_background_sends_listens_and_does_what_was_left(cast: Cast, slack: FakeSlack, settings) -> None:
    from jitaccess.runtime.slack_worker import run_slack

    settings.SLACK_MODE = "socket"
    desk, stopping = Desk(cast, slack), threading.Event()
    asked = cast.submit()
    thread = threading.Thread(target=run_slack, args=(stopping,))
    thread.start()
    try:
        until(lambda: slack.sockets)
        until(lambda: sequence() or slack.to("U1ANNA"))
        until(lambda: slack.to("U1ANNA"))
        (mine,) = slack.to("U1ANNA")
        until(lambda: SlackCard.objects.filter(ts=mine.ts).exists())
        slack.envelope("interactive", slack.press(mine, "approve", name_of(cast.anna)))
        until(lambda: sequence() or "Active" in mine.text)
        asked.refresh_from_db()
        assert asked.status == "approved"
        until(lambda: desk.told(cast.anna))
    finally:
        stopping.set()
        thread.join(20)
    assert not thread.is_alive()


def test_the_connection_goes_to_slack_only(slack: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket_mode._Socket(app_token=APP, web_client=web_client(APP), logger=socket_mode.SDK_LOG)
    hosts = ("wss://evil.example/link", "ws://wss.slack.com/link", "wss://slack.com.evil.example/", "wss://xslack.com/")
    try:
        for url in hosts:
            monkeypatch.setattr(slack, "_apps_connections_open", lambda _sent, url=url: {"ok": True, "url": url})
            with pytest.raises(Forbidden):
                made.issue_new_wss_url()
        fine = "wss://wss-primary.slack.com/link/?ticket=1"
        monkeypatch.setattr(slack, "_apps_connections_open", lambda _sent: {"ok": True, "url": fine})
        assert made.issue_new_wss_url() == fine
    finally:
        made.close()
