from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.core import mail

from jitaccess.audit.models import Cursor
from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.services import import_tools
from jitaccess.notify import deliver
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.models import Delivery
from jitaccess.notify.tasks import deliver as task
from jitaccess.store.clock import now
from requests_app.services import deny_request, release_grant, revoke_grant
from tests.cast import Cast, definition


@pytest.fixture(autouse=True)
def _channels(settings) -> None:
    settings.NOTIFY_CHANNELS = ["console", "email"]
    settings.PUBLIC_URL = "https://desk.example"


def owed(**only: str) -> set[tuple[str, str, str]]:
    return set(Delivery.objects.filter(**only).values_list("event", "user__username", "channel"))


def catch_up() -> None:
    while sequence() + fan_out():
        pass


def names(event: str) -> set[str]:
    return {name for _, name, _ in owed(event=event)}


def test_a_new_request_is_owed_to_each_approver_on_each_channel_once(cast: Cast) -> None:
    cast.submit()
    catch_up()
    expected = {("request.submitted", name, channel) for name in ("anna", "bert") for channel in ("console", "email")}
    assert owed() == expected
    Cursor.objects.update(seq=0)  # read once more, as after a crash
    catch_up()
    assert Delivery.objects.count() == 4


def test_nobody_without_an_address_is_owed_an_email(cast: Cast) -> None:
    cast.anna.email = ""
    cast.anna.save()
    cast.submit()
    catch_up()
    assert ("request.submitted", "anna", "email") not in owed()
    assert ("request.submitted", "anna", "console") in owed()


def test_an_approval_is_told_once_to_the_owner_and_the_person_it_is_for(cast: Cast) -> None:
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    cast.approve(cast.submit(principal=cast.principal(user=cast.carl)), cast.anna)
    catch_up()
    assert names("request.approved") == {"olga", "carl"}
    assert names("grant.activated") == set()
    assert Delivery.objects.filter(user=cast.olga, channel="console").count() == 1


def test_a_denial_is_told_and_the_question_is_not_asked_any_more(cast: Cast) -> None:
    asked = cast.submit()
    deny_request(request_id=asked.pk, approver=cast.anna, channel="web", digest=asked.digest)
    catch_up()
    assert owed() == {("request.denied", "olga", "console"), ("request.denied", "olga", "email")}


def test_whoever_did_it_is_not_told(cast: Cast) -> None:
    grant = cast.approve(cast.submit(), cast.anna).grant
    revoke_grant(grant_id=grant.pk, user=cast.olga)
    catch_up()
    assert names("grant.revoked") == set()


def test_access_given_back_by_the_agent_is_told_to_the_person_it_acts_for(cast: Cast) -> None:
    from jitaccess.identity.principal import Principal

    grant = cast.approve(cast.submit(principal=cast.principal(user=cast.olga)), cast.anna).grant
    principal = Principal(agent=cast.agent.pk, agent_name="demo-agent", user=cast.olga.pk, user_name="olga")
    release_grant(grant_id=grant.pk, principal=principal)
    catch_up()
    assert names("grant.released") == {"olga"}


def test_the_task_reads_and_sends(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    asked = cast.submit(reason="Because.\nBcc: everybody@example.test")
    sequence()
    with caplog.at_level(logging.INFO, logger="jitaccess.notify"):
        task()
        task()
    link = f"https://desk.example/requests/{asked.pk}/"
    lines = [line.getMessage() for line in caplog.records]
    assert sorted(lines) == [
        f"to {name}: demo-agent asks for git/git_commit for 10 min: {link}" for name in ("anna", "bert")
    ]
    assert {message.to[0] for message in mail.outbox} == {"anna@example.test", "bert@example.test"}
    assert len(mail.outbox) == 2
    for message in mail.outbox:
        assert message.subject == "[jitaccess] demo-agent asks for git/git_commit for 10 min"
        assert message.bcc == []
        assert link in message.body
        assert "> Bcc: everybody@example.test" in message.body
    assert not Delivery.objects.filter(sent_at=None).exists()


def test_the_agents_words_never_reach_a_subject(cast: Cast) -> None:
    cast.agent.name = "evil\r\nBcc: x@example.test"
    cast.agent.save()
    cast.submit(reason="REASON")
    sequence()
    task()
    assert len(mail.outbox) == 2
    for message in mail.outbox:
        assert "\n" not in message.subject
        assert "\r" not in message.subject
        assert "REASON" not in message.subject


def test_a_failing_channel_stops_nobody_and_is_tried_again(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cast.submit()
    catch_up()
    real = deliver.CHANNELS["email"]

    def broken(notice: object) -> None:
        raise OSError("mail server down\x1b[31m")

    monkeypatch.setitem(deliver.CHANNELS, "email", broken)
    assert deliver.send_due() == 2  # both console lines
    assert deliver.send_due() == 0  # not due yet
    failed = Delivery.objects.filter(sent_at=None)
    assert [(row.channel, row.attempts, row.error) for row in failed] == [
        ("email", 1, "OSError: mail server down\\u{1b}[31m")
    ] * 2
    pause = failed[0].due_at - now()
    assert timedelta(0) < pause <= timedelta(seconds=5)
    assert "failed, attempt 1" in caplog.text
    monkeypatch.setitem(deliver.CHANNELS, "email", real)
    Delivery.objects.filter(sent_at=None).update(due_at=now())
    assert deliver.send_due() == 2
    assert len(mail.outbox) == 2
    assert set(Delivery.objects.values_list("error", flat=True)) == {""}


def test_a_row_about_nothing_stops_nobody(cast: Cast) -> None:
    asked = cast.submit()
    catch_up()
    Delivery.objects.filter(user=cast.anna, channel="console").update(request="00000000-0000-7000-8000-000000000000")
    Delivery.objects.filter(user=cast.anna, channel="email").update(channel="pigeon")
    assert deliver.send_due() == 2
    assert {row.user for row in Delivery.objects.exclude(sent_at=None)} == {cast.bert}
    assert asked.pending


def test_two_workers_send_one_notice_once(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    cast.submit()
    catch_up()
    real, nested = deliver.CHANNELS["email"], []

    def slow(notice: object) -> None:
        nested.append(deliver.send_due())  # a second worker comes by while the first is sending
        real(notice)

    monkeypatch.setitem(deliver.CHANNELS, "email", slow)
    deliver.send_due()
    assert sorted(message.to[0] for message in mail.outbox) == ["anna@example.test", "bert@example.test"]
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


def test_a_question_that_was_answered_meanwhile_is_not_sent(cast: Cast) -> None:
    asked = cast.submit()
    catch_up()
    cast.approve(asked, cast.anna)
    assert deliver.send_due() == 0
    assert mail.outbox == []
    assert not Delivery.objects.filter(sent_at=None).exists()


def test_the_pause_doubles_from_five_seconds_up_to_ten_minutes() -> None:
    assert [deliver.backoff(n).total_seconds() for n in (1, 2, 3, 7, 8, 9, 10_000)] == [5, 10, 20, 320, 600, 600, 600]


def change_tools(cast: Cast, *names: str) -> None:
    """The git server says something else about these tools."""
    offered = [definition(name, description="other" if name in names else f"The tool {name}") for name in cast.tools]
    import_tools(server=cast.server, definitions=offered, operator=cast.operator)


def test_tools_that_changed_since_their_review_are_told_once_to_those_who_may_review_them(cast: Cast) -> None:
    change_tools(cast, "git_log", "git_add")
    catch_up()
    assert owed() == {("tool.changed", "admin", "console"), ("tool.changed", "admin", "email")}
    task()
    [mail_sent] = mail.outbox
    assert mail_sent.subject == "[jitaccess] Changed since its review: git_add, git_log of git"
    assert "https://desk.example/admin/jit_catalog/tool/?state=changed" in mail_sent.body
    assert "other" not in mail_sent.body, "the server's own words are for the review page"


def test_a_tool_that_is_as_it_was_before_the_notice_goes_out_is_not_told(cast: Cast) -> None:
    change_tools(cast, "git_log")
    catch_up()
    change_tools(cast)
    catch_up()
    task()
    assert mail.outbox == []
    assert {row.error for row in Delivery.objects.all()} == {"not sent: reviewed, or as it was, before it went out"}


def test_a_tool_that_was_never_reviewed_is_not_told(cast: Cast) -> None:
    offered = [definition(name) for name in (*cast.tools, "new_one")]
    import_tools(server=cast.server, definitions=offered, operator=cast.operator)
    offered[-1]["description"] = "another"
    import_tools(server=cast.server, definitions=offered, operator=cast.operator)
    catch_up()
    assert owed() == set()


def test_a_server_whose_tools_change_again_and_again_fills_no_mailbox_and_its_last_state_is_told(cast: Cast) -> None:
    for number in range(4):
        change_tools(cast, *("git_log", "git_add")[: number % 2])
        catch_up()
        task()
    assert [one.subject for one in mail.outbox] == ["[jitaccess] Changed since its review: git_log of git"]
    [waits] = Delivery.objects.filter(sent_at=None, channel="email")
    assert timedelta(minutes=9) < waits.due_at - now() < timedelta(minutes=12)
    change_tools(cast, "git_add")
    catch_up()
    Delivery.objects.filter(sent_at=None).update(due_at=now())
    task()
    assert [one.subject for one in mail.outbox[1:]] == ["[jitaccess] Changed since its review: git_add of git"]
    assert not Delivery.objects.filter(sent_at=None).exists()
