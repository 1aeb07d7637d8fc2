"""Cards in channels and with people, decided over HTTP; every copy says what is so."""

from __future__ import annotations

from datetime import timedelta

from jitaccess.audit.recorder import Actor
from jitaccess.audit.sequencer import sequence
from jitaccess.notify.slack.models import SlackCard, SlackInbox
from jitaccess.policy.delegations import delegate
from jitaccess.store.clock import now
from requests_app.asking import ExactCall
from requests_app.services import Ask, submit_request
from tests.fakes.slack.limits import texts_of
from tests.fakes.slack.server import CHANNEL, Fault
from tests.slack.conftest import Desk, name_of


def test_a_new_request_is_a_card_in_the_channel_and_with_each_approver(desk: Desk) -> None:
    desk.cast.submit()
    desk.catch_up()
    (channel,) = desk.slack.to(CHANNEL)
    assert set(channel.buttons) == {"approve", "deny", "open"}
    for person in (desk.cast.anna, desk.cast.bert):
        (card,) = desk.slack.to(name_of(person))
        assert "git/git_commit" in card.text
        assert "Finish the release notes" in card.text
        assert "in the agent's words" in card.text
        assert card.buttons["approve"]["confirm"]["text"]["text"].startswith("Approve and the agent can use this tool")
    assert not desk.slack.to(name_of(desk.cast.olga))  # who asks is not asked
    assert not desk.slack.to("U1CARL")
    posted = desk.slack.called("chat.postMessage")
    assert all(one["unfurl_links"] is False and one["unfurl_media"] is False for one in posted)
    assert all(one["metadata"]["event_payload"]["id"] for one in posted)


def test_an_approval_from_a_card_grants_and_every_copy_says_so(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to(name_of(desk.cast.anna))
    assert desk.press(mine, "approve", desk.cast.anna).status_code == 200
    asked.refresh_from_db()
    assert asked.status == "approved"
    decision = asked.decisions.get()
    assert (decision.user, decision.channel) == (desk.cast.anna, "slack")
    assert desk.told(desk.cast.anna) == ["Approved. Access began just now."]
    desk.catch_up()
    copies = [*desk.slack.to(CHANNEL), *desk.slack.to("U1ANNA"), *desk.slack.to("U1BERT")]
    assert len(copies) == 3
    for copy in copies:
        assert "Active" in copy.text
        assert set(copy.buttons) == {"open"}
    (outcome,) = desk.slack.to("U1OLGA")
    assert "Active" in outcome.text
    (channel,) = desk.slack.to(CHANNEL)
    lines = [line.body["text"] for line in desk.slack.thread(channel)]
    assert any("anna approved" in line for line in lines)


def test_a_decision_on_the_web_updates_every_copy(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    desk.cast.deny(asked, reason="Not today")
    desk.catch_up()
    for place in (CHANNEL, "U1ANNA", "U1BERT"):
        (copy,) = desk.slack.to(place)
        assert "Denied" in copy.text
        assert "approve" not in copy.buttons


def test_pressing_in_the_channel_counts_for_who_presses_only_if_they_may(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (channel,) = desk.slack.to(CHANNEL)
    desk.press(channel, "approve", desk.cast.olga)
    desk.press(channel, "approve", desk.cast.carl)  # linked to nobody
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert not asked.decisions.exists()
    assert "own" in desk.told(desk.cast.olga)[0]
    assert "/access link" in desk.told(desk.cast.carl)[0]
    desk.press(channel, "approve", desk.cast.bert)
    asked.refresh_from_db()
    assert asked.status == "approved"


def test_two_clicks_are_one_decision(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    payload = desk.slack.press(mine, "approve", "U1ANNA")
    desk.post(payload)
    desk.post(payload)  # delivered once more, as Slack does when an answer was late
    desk.press(mine, "approve", desk.cast.anna)  # and pressed once more
    asked.refresh_from_db()
    assert asked.decisions.count() == 1
    assert SlackInbox.objects.filter(done_at=None).count() == 0
    assert SlackInbox.objects.count() == 2
    assert not SlackInbox.objects.exclude(payload="").exists()


def test_a_denial_asks_for_a_reason_in_a_form(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.press(mine, "deny", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"
    desk.send(desk.cast.anna, reason="Use the staging branch")
    asked.refresh_from_db()
    assert asked.status == "denied"
    assert asked.decisions.get().reason == "Use the staging branch"
    assert desk.told(desk.cast.anna) == ["Denied. The agent is told."]


def test_a_trigger_that_is_too_old_says_press_again(desk: Desk) -> None:
    desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.press(mine, "deny", desk.cast.anna, trigger_id=desk.slack.trigger(age=4))
    assert desk.told(desk.cast.anna) == ["That took too long for Slack. Please press it again."]
    assert not desk.slack.views


def test_an_approval_of_less(desk: Desk, chosen) -> None:
    asked = desk.cast.submit("git_commit", "git_add", seconds=3600)
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.press(mine, "less", desk.cast.anna)
    kept = asked.tool_labels.index("git/git_add")
    desk.send(desk.cast.anna, seconds=chosen("600"), keep=[str(kept)])
    asked.refresh_from_db()
    assert asked.status == "approved"
    assert (asked.grant.expires_at - asked.grant.starts_at).total_seconds() == 600
    assert desk.cast.verdict("git_add").allowed
    assert not desk.cast.verdict("git_commit").allowed


def test_asking_for_changes(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.press(mine, "changes", desk.cast.anna)
    desk.send(desk.cast.anna, reason="Ask for git_add only")
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert asked.changes_note == "Ask for git_add only"


def test_a_partial_approval_shows_on_every_copy(desk: Desk) -> None:
    desk.cast.change_policy("team:reviewers", quorum=2)
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.press(mine, "approve", desk.cast.anna)
    desk.catch_up()
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert desk.told(desk.cast.anna) == ["Your yes counts. Others have to decide, too."]
    (theirs,) = desk.slack.to("U1BERT")
    assert "reviewers: 1 of 2" in theirs.text
    assert "approve" in theirs.buttons
    (mine,) = desk.slack.to("U1ANNA")
    assert "approve" not in mine.buttons
    assert "You approved this at" in mine.text


def test_a_step_up_rule_is_never_decided_in_slack(desk: Desk) -> None:
    desk.cast.change_policy("team:reviewers", step_up=True)
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,), (channel,) = desk.slack.to("U1ANNA"), desk.slack.to(CHANNEL)
    assert "approve" not in mine.buttons
    assert "approve" not in channel.buttons
    assert mine.buttons["open"]["url"] == f"https://desk.example/requests/{asked.pk}/"
    assert "prove once more" in mine.text
    # And a button made up by somebody is refused by the service.
    made_up = {**mine.buttons["deny"], "action_id": "approve"}
    made_up["value"] = made_up["value"].replace("|deny|", "|approve|")
    mine.body["blocks"][-1]["elements"].append(made_up)
    desk.press(mine, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert not asked.decisions.exists()


def test_a_policy_that_leaves_slack_out_opens_the_page(desk: Desk) -> None:
    desk.cast.change_policy("team:reviewers", channels=["web"])
    desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    assert "approve" not in mine.buttons
    assert "approved by web only" in mine.text


def test_a_stale_button_decides_nothing_about_what_changed(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    approve = mine.buttons["approve"]
    approve["value"] = approve["value"].replace(asked.digest, asked.digest[:-4] + "0000")
    desk.press(mine, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert not asked.decisions.exists()
    assert desk.told(desk.cast.anna)


def test_a_copied_message_decides_nothing(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    elsewhere = {"type": "message", "message_ts": "1700009999.000001", "channel_id": "C0ELSE"}
    desk.press(mine, "approve", desk.cast.anna, container=elsewhere)
    asked.refresh_from_db()
    assert asked.status == "pending"
    # The card of one person pressed by another who may decide, too.
    desk.press(mine, "approve", desk.cast.bert)
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert not asked.decisions.exists()


def test_escalation_asks_further_people_and_reminders_reach_those_who_were_asked(desk: Desk, clock) -> None:
    from requests_app.services.remind import tell_about

    escalation = {"after": "10m", "groups": [{"name": "boss", "people": ["user:carl"], "quorum": 1}]}
    desk.cast.change_policy("team:reviewers", reminders=["5m"], escalate=[escalation])
    desk.link(desk.cast.carl)
    asked = desk.cast.submit()
    desk.catch_up()
    assert not desk.slack.to("U1CARL")
    clock.shift(601)
    assert tell_about(request_id=asked.pk)
    desk.catch_up()
    (card,) = desk.slack.to("U1CARL")
    assert "approve" in card.buttons
    (anna,) = desk.slack.to("U1ANNA")
    assert any("reminded" in line.body["text"] for line in desk.slack.thread(anna))


def test_hostile_words_are_only_ever_plain_text(desk: Desk) -> None:
    hostile = "<!channel> <https://evil.example|Approve> *now* @here \u202egnp.exe \u200b & `x` https://evil.example"
    desk.cast.submit(reason=hostile)
    desk.catch_up()
    for message in desk.slack.messages:
        for text in texts_of(message.body):
            assert text["type"] == "plain_text"
            assert text["emoji"] is False
        assert "evil" not in message.body["text"]
        assert "\u202e" not in message.text
        assert "\u200b" not in message.text
    (mine,) = desk.slack.to("U1ANNA")
    assert "<!channel>" in mine.text  # shown whole, as words
    assert "\\\\u{202e}" in mine.text


def test_a_reason_of_2000_characters_is_shown_whole(desk: Desk) -> None:
    reason = "&<>" * 666
    desk.cast.submit(reason=reason)
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    whole = "".join(text["text"] for text in texts_of(mine.body["blocks"]))
    assert reason in whole
    assert "approve" in mine.buttons


def test_nobody_is_told_of_what_was_before_slack_was_switched_on(cast, slack) -> None:
    cast.submit()
    sequence()
    Desk(cast, slack).catch_up()
    assert not slack.messages
    assert not SlackCard.objects.exists()


def test_a_change_while_a_message_is_made_is_sent_once_more(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    card = SlackCard.objects.get(kind="channel")
    assert card.seen_seq == card.wanted_seq
    desk.slack.fail("chat.update", Fault(error="internal_error"))
    desk.cast.deny(asked)
    desk.catch_up()
    card.refresh_from_db()
    assert card.seen_seq == card.wanted_seq
    assert card.due_at is None
    assert "Denied" in desk.slack.to(CHANNEL)[0].text


def test_what_slack_cannot_show_whole_is_approved_on_its_page_only(desk: Desk) -> None:
    cast = desk.cast
    arguments = {"message": "x" * 5000}
    ask = Ask(calls=[ExactCall("git", "git_commit", arguments)], reason="This very one", seconds=600)
    asked = submit_request(principal=cast.principal(), ask=ask, snapshot=cast.snapshot()).request
    desk.catch_up()
    (mine,), (channel,) = desk.slack.to("U1ANNA"), desk.slack.to(CHANNEL)
    for card in (mine, channel):
        assert "approve" not in card.buttons
        assert "cannot be approved here" in card.text
        assert card.buttons["open"]["url"].endswith(f"/requests/{asked.pk}/")
    made_up = {**mine.buttons["deny"], "action_id": "approve"}
    made_up["value"] = made_up["value"].replace("|deny|", "|approve|")
    mine.body["blocks"][-1]["elements"].append(made_up)
    desk.press(mine, "approve", cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert "Slack cannot show all of this" in desk.told(cast.anna)[0]


def test_who_stands_in_for_somebody_gets_the_card_and_is_told_for_whom_they_decide(desk: Desk) -> None:
    cast = desk.cast
    desk.link(cast.carl)
    operator = Actor(user=cast.anna.pk, user_name="anna")
    delegate(person=cast.anna, to=cast.carl, ends_at=now() + timedelta(days=1), operator=operator)
    asked = cast.submit()
    desk.catch_up()
    (card,) = desk.slack.to("U1CARL")
    assert "You decide in the place of anna" in card.text
    desk.press(card, "approve", cast.carl)
    asked.refresh_from_db()
    assert asked.status == "approved"
    assert asked.decisions.get().on_behalf_of == cast.anna
