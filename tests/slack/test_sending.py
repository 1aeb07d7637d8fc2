"""What Slack refuses, one by one: nothing is lost, nothing is there twice, and the web works all the while."""

from __future__ import annotations

import pytest

from jitaccess.notify.slack import client as calls
from jitaccess.notify.slack import sending
from jitaccess.notify.slack.cards import note_cards
from jitaccess.notify.slack.models import SlackCard
from jitaccess.notify.slack.sending import send_due
from tests.fakes.slack.server import CHANNEL, Fault
from tests.slack.conftest import Desk

LATER = ("fatal_error", "internal_error", "service_unavailable", "request_timeout")
THE_APP = ("invalid_auth", "token_revoked", "account_inactive", "missing_scope")
THERE = ("channel_not_found", "is_archived", "not_in_channel", "user_not_found", "restricted_action")


def card(kind: str = "channel") -> SlackCard:
    return SlackCard.objects.get(kind=kind, place__startswith="C") if kind == "channel" else SlackCard.objects.get()


@pytest.fixture
def one(desk: Desk) -> Desk:
    """A request with one message, that in the channel, not sent yet."""
    from jitaccess.audit.sequencer import sequence
    from jitaccess.notify.slack.models import SlackLink

    SlackLink.objects.all().delete()
    desk.cast.submit()
    sequence()
    note_cards()
    return desk


@pytest.mark.parametrize("error", LATER)
def test_what_passes_is_tried_again(one: Desk, error: str) -> None:
    one.slack.fail("chat.postMessage", Fault(error=error))
    assert send_due() == 0
    assert card().error == error
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 1
    assert card().error == ""


@pytest.mark.parametrize("error", THERE)
def test_a_place_that_refuses_is_given_up_until_something_happens_there(one: Desk, error: str) -> None:
    one.slack.fail("chat.postMessage", Fault(error=error))
    one.catch_up()
    assert card().dead
    assert card().error == error
    asked = card().request
    one.cast.deny(_request(asked))
    one.catch_up()
    assert not card().dead
    assert "Denied" in one.slack.to(CHANNEL)[0].text


@pytest.mark.parametrize("error", THE_APP)
def test_an_app_that_is_refused_makes_everything_wait_and_loses_nothing(one: Desk, error: str) -> None:
    one.slack.fail("chat.postMessage", Fault(error=error))
    assert send_due() == 0
    assert (card().dead, card().attempts) == (False, 0)
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 1


def test_a_429_is_waited_for_as_long_as_slack_says_and_by_all(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", Fault(status=429, retry_after=77))
    desk.cast.submit()
    desk.catch_up()
    assert len(desk.slack.called("chat.postMessage")) == 1  # nobody asks meanwhile
    assert SlackCard.objects.filter(ts="").count() == 3
    calls.forget_pauses()  # 77 seconds later
    desk.catch_up()
    assert SlackCard.objects.filter(ts="").count() == 0
    assert len(desk.slack.to(CHANNEL)) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
def test_an_error_of_the_server_may_mean_that_it_was_posted(one: Desk, status: int) -> None:
    one.slack.fail("chat.postMessage", Fault(status=status, done=True))
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 1  # found again, not posted twice
    assert card().ts == one.slack.to(CHANNEL)[0].ts
    assert len(one.slack.called("chat.postMessage")) == 1


def test_no_answer_in_time_may_mean_that_it_was_posted(one: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SECONDS", 0.3)
    one.slack.fail("chat.postMessage", Fault(done=True, seconds=1, error="too late"))
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 1
    assert len(one.slack.called("chat.postMessage")) == 1


def test_a_process_that_dies_between_posting_and_writing_it_down_posts_once(
    one: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    real = sending.call

    def dying(method: str, **arguments: object) -> object:
        answer = real(method, **arguments)
        if method == "chat.postMessage":
            raise Killed
        return answer

    monkeypatch.setattr(sending, "call", dying)
    with pytest.raises(Killed):
        send_due()
    monkeypatch.setattr(sending, "call", real)
    assert card().ts == ""
    one.cast.deny(_request(card().request))  # and meanwhile it was decided
    one.catch_up()
    (message,) = one.slack.to(CHANNEL)
    assert card().ts == message.ts
    assert "Denied" in message.text


def test_without_the_right_to_look_it_is_posted_again_rather_than_not_at_all(one: Desk) -> None:
    one.slack.fail("chat.postMessage", Fault(status=500, done=True))
    one.slack.fail("conversations.history", Fault(error="missing_scope"))
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 2


@pytest.mark.parametrize("error", ["message_not_found", "edit_window_closed", "cant_update_message"])
def test_a_card_that_cannot_be_changed_any_more_is_posted_anew(one: Desk, error: str) -> None:
    one.catch_up()
    one.slack.fail("chat.update", Fault(error=error))
    one.cast.deny(_request(card().request))
    one.catch_up()
    assert len(one.slack.to(CHANNEL)) == 2
    assert "Denied" in one.slack.to(CHANNEL)[1].text
    assert card().ts == one.slack.to(CHANNEL)[1].ts


@pytest.mark.parametrize("error", ["msg_too_long", "msg_blocks_too_long", "invalid_blocks"])
def test_what_slack_finds_too_long_is_a_word_and_the_page(one: Desk, error: str) -> None:
    one.slack.fail("chat.postMessage", Fault(error=error))
    one.catch_up()
    (message,) = one.slack.to(CHANNEL)
    assert set(message.buttons) == {"open"}
    assert "more than one message in Slack can show" in message.text


def test_slack_that_is_away_keeps_nobody_from_deciding_on_the_web(one: Desk, settings) -> None:
    settings.SLACK_API_URL = "http://127.0.0.1:9/api/"
    assert send_due() == 0
    asked = _request(card().request)
    assert one.cast.approve(asked).status == "approved"
    assert card().ts == ""
    settings.SLACK_API_URL = one.slack.url
    one.catch_up()
    assert "Active" in one.slack.to(CHANNEL)[0].text
    assert len(one.slack.to(CHANNEL)) == 1


def test_nothing_is_sent_where_egress_may_not_go(one: Desk, settings) -> None:
    settings.EGRESS_ALLOW = []
    assert send_due() == 0
    assert not one.slack.calls
    assert not card().dead


def test_a_click_is_done_after_a_restart(desk: Desk) -> None:
    """Written down and acknowledged, and then the process died."""
    from jitaccess.notify.slack.incoming import do_waiting, take_in

    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    assert take_in("block_actions", desk.slack.press(mine, "approve", "U1ANNA")) is None
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert do_waiting() == 1
    asked.refresh_from_db()
    assert asked.status == "approved"


def test_a_click_whose_answer_cannot_be_told_counts_all_the_same(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.slack.fail("chat.postEphemeral", Fault(error="user_not_in_channel"))
    desk.press(mine, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "approved"
    assert "Approved" in desk.slack.to("U1ANNA")[-1].body["text"]


def _request(pk):
    from requests_app.selectors import requests_by_id

    return requests_by_id([pk])[pk]
