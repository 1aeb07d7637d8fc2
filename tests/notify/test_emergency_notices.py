"""What is said of break-glass, reminders and ends that come soon."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import mail

from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Team
from jitaccess.notify.deliver import send_due
from jitaccess.notify.ends import owe_notices_of_ends
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.models import Delivery
from jitaccess.policy.models import BreakGlass
from requests_app.services import revoke_grant
from requests_app.services.break_glass import break_glass
from requests_app.sweeps import tell_about_requests
from tests.cast import Cast
from tests.clocks import Clock


@pytest.fixture(autouse=True)
def _channels(settings: Any) -> None:
    settings.NOTIFY_CHANNELS = ["email"]
    settings.PUBLIC_URL = "https://desk.example"


def sent() -> list[Any]:
    while sequence() + fan_out():
        pass
    send_due()
    found, mail.outbox[:] = list(mail.outbox), []
    return found


def test_break_glass_is_told_with_the_words_of_who_used_it_and_where_to_review_it(cast: Cast) -> None:
    watch = Team.objects.create(name="watch")
    watch.members.add(cast.bert)
    right = BreakGlass.objects.create(name="fix", role=cast.read_only, max_minutes=30, reviewers=watch)
    right.users.add(cast.olga)
    break_glass(user=cast.olga, agent=cast.agent, right=right.pk, reason="It is down\n\u202eat once")
    (message,) = sent()
    assert message.to == ["bert@example.test"]
    assert message.subject == "[jitaccess] Break-glass: demo-agent for olga has role:read-only for 30 min"
    assert "asks for: the role read-only, version 1" in message.body
    assert "> (in the words of olga, checked by nobody)\n> It is down\n> \\u{202e}at once" in message.body
    assert "https://desk.example/break-glass/" in message.body


def test_a_reminder_is_not_sent_when_it_was_decided_meanwhile(cast: Cast, clock: Clock) -> None:
    cast.change_policy(reminders=["1m", "2m"])
    asked = cast.submit()
    sent()
    clock.shift(61)
    tell_about_requests()
    assert [message.to for message in sent()] == [["anna@example.test"], ["bert@example.test"]]
    clock.shift(60)
    tell_about_requests()
    while sequence() + fan_out():
        pass
    cast.deny(asked)
    assert {message.to[0] for message in sent()} == {"olga@example.test"}  # the denial
    skipped = Delivery.objects.filter(event="request.reminded", error__startswith="not sent: decided")
    assert skipped.count() == 2


@pytest.mark.parametrize("revoked", [False, True])
def test_an_end_that_comes_soon_is_said_unless_it_came_already(revoked: bool, cast: Cast, clock: Clock) -> None:
    grant = cast.grant(seconds=3600)
    sent()
    clock.shift(3600 - 299)
    assert owe_notices_of_ends() == 1
    if revoked:
        revoke_grant(grant_id=grant.pk, user=cast.olga)
    subjects = [message.subject for message in sent()]
    said = ["[jitaccess] Ends in a few minutes: demo-agent can use git/git_commit"]
    assert subjects == ([] if revoked else said)
