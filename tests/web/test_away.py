"""The away page: one's own approvals handed over and taken back, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.policy.delegations import delegators_of
from jitaccess.policy.models import Delegation
from jitaccess.store.clock import now
from tests.cast import Cast

pytestmark = pytest.mark.django_db
PAGE = "/away/"
Browser = Callable[..., Client]


def day(ahead: int) -> str:
    return f"{now() + timedelta(days=ahead):%F}"


def hand(client: Client, **fields: Any) -> Any:
    return client.post(reverse("web:hand_over"), {"delegate": "carl", "last": day(3), **fields})


def test_approvals_are_handed_over_used_and_taken_back(cast: Cast, browser: Browser) -> None:
    anna, carl = browser(cast.anna), browser(cast.carl)
    assert PAGE in anna.get("/").content.decode()
    assert hand(anna, note="On <b>holiday</b>").url == PAGE
    assert delegators_of(cast.carl) == {cast.anna.pk}
    page = anna.get(PAGE).content.decode()
    assert "decides in your place" in page
    assert "On &lt;b&gt;holiday&lt;/b&gt;" in page
    assert "In the place of" in carl.get(PAGE).content.decode()
    row = Delegation.objects.get()
    assert (row.starts_at <= now(), f"{row.ends_at:%F %T}") == (True, f"{day(4)} 00:00:00"), "the last day counts whole"
    assert anna.post(reverse("web:end_delegation", args=[row.pk])).url == PAGE
    assert delegators_of(cast.carl) == set()
    assert "decides in your place" not in anna.get(PAGE).content.decode().split("Hand over your approvals")[0]
    events = Entry.objects.filter(event__startswith="delegation.").order_by("uid")
    assert [(entry.event, entry.user_name, entry.client) for entry in events] == [
        ("delegation.created", "anna", "web"),
        ("delegation.ended", "anna", "web"),
    ]


def test_being_away_needs_nobody(cast: Cast, browser: Browser) -> None:
    assert hand(browser(cast.anna), delegate="").url == PAGE
    assert Delegation.objects.get().delegate is None


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"delegate": "nobody-such"}, 400, "no active person"),
        ({"delegate": "a\0b"}, 400, "no active person"),
        ({"delegate": "anna"}, 400, "somebody else"),
        ({"last": ""}, 400, "until which day"),
        ({"last": "soon"}, 400, "Write days"),
        ({"last": "9999-12-31"}, 400, "Write days"),
        ({"first": "0001-01-01"}, 400, "Write days"),
        ({"last": "2001-01-01"}, 400, "in the future"),
        ({"last": "8000-01-01"}, 400, "At most 30 days"),
    ],
)
def test_what_cannot_be_is_said_on_the_page_and_not_done(
    cast: Cast, browser: Browser, fields: dict[str, str], status: int, said: str
) -> None:
    answer = hand(browser(cast.anna), **fields)
    assert answer.status_code == status
    assert said in answer.content.decode()
    assert not Delegation.objects.exists()


def test_a_form_cannot_speak_for_somebody_else(cast: Cast, browser: Browser) -> None:
    hand(browser(cast.carl), delegate="bert", person=str(cast.anna.pk))
    assert Delegation.objects.get().person == cast.carl
    assert delegators_of(cast.bert) == {cast.carl.pk}


def test_what_is_somebody_elses_does_not_exist(cast: Cast, browser: Browser) -> None:
    hand(browser(cast.anna))
    row = Delegation.objects.get()
    for client in (browser(cast.bert), browser(cast.admin)):
        assert "decides in your place</strong>" not in client.get(PAGE).content.decode()
        assert client.post(reverse("web:end_delegation", args=[row.pk])).status_code == 404
    assert delegators_of(cast.carl) == {cast.anna.pk}


def test_nothing_is_handed_over_by_looking(cast: Cast, browser: Browser) -> None:
    client = browser(cast.anna)
    assert client.get(reverse("web:hand_over"), {"delegate": "carl", "last": day(3)}).status_code == 405
    assert browser(cast.anna, csrf=True).post(reverse("web:hand_over"), {"last": day(3)}).status_code == 403
    assert Client().get(PAGE).status_code == 302
    assert not Delegation.objects.exists()
