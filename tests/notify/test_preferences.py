from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Team, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid
from jitaccess.notify import allowed
from jitaccess.notify.allowed import GROUPS, Way, Wishes, wants
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.models import Delivery, Preference
from jitaccess.notify.preferences import set_preferences
from tests.cast import Cast

pytestmark = pytest.mark.pure


@pytest.fixture(autouse=True)
def _channels(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NOTIFY_CHANNELS = ["console", "email"]
    chat = Way("Chat", lambda: True, lambda user: user.username != "bert")
    monkeypatch.setattr(allowed, "WAYS", {"email": allowed.WAYS["email"], "chat": chat})


@pytest.fixture
def browser() -> Callable[[User], Client]:
    def opened(user: User) -> Client:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return opened


def choose(of: User | Team, by: User, **words: bool | None) -> bool:
    choices = {(name.rpartition("_")[0], name.rpartition("_")[2]): on for name, on in words.items()}
    return set_preferences(of=of, choices=choices, operator=Principal.of_user(by).actor())


def test_everybody_wants_everything_until_they_say_otherwise(cast: Cast) -> None:
    assert all(wants(cast.anna, event, "email") for group in GROUPS for event in group.events)
    choose(cast.anna, cast.anna, ended_email=False)
    assert not wants(cast.anna, "grant.expired", "email")
    assert wants(cast.anna, "grant.expired", "chat")
    assert wants(cast.anna, "grant.expired", "console"), "the log is nobody's to switch off"
    assert wants(cast.bert, "grant.expired", "email")


def test_a_team_speaks_for_its_members_until_they_speak_for_themselves(cast: Cast) -> None:
    choose(cast.team, cast.admin, ended_email=False)
    assert not wants(cast.olga, "grant.expired", "email")
    assert wants(cast.carl, "grant.expired", "email"), "carl is in no team"
    choose(cast.olga, cast.olga, ended_email=True)
    assert wants(cast.olga, "grant.expired", "email")
    choose(cast.olga, cast.olga, ended_email=None)
    assert not wants(cast.olga, "grant.expired", "email")
    choose(cast.reviewers, cast.admin, ended_email=True)
    assert wants(cast.olga, "grant.expired", "email"), "one team that wants to be told is enough"


def test_what_waits_for_somebody_cannot_be_switched_off_everywhere(cast: Cast) -> None:
    choose(cast.anna, cast.anna, asked_email=False)
    assert not wants(cast.anna, "request.submitted", "email")
    with pytest.raises(Invalid):
        choose(cast.anna, cast.anna, asked_chat=False)
    with pytest.raises(Invalid):
        choose(cast.team, cast.admin, asked_email=False, asked_chat=False)
    assert wants(cast.anna, "request.submitted", "chat")
    assert Preference.objects.count() == 1


def test_whoever_a_channel_does_not_reach_hears_by_the_other_one_whatever_they_said(cast: Cast) -> None:
    choose(cast.bert, cast.bert, asked_email=False)  # chat is on, but leads to nobody
    assert wants(cast.bert, "request.submitted", "email")
    assert wants(cast.bert, "grant.expired", "email")


def test_a_notice_that_nobody_wants_is_not_owed(cast: Cast) -> None:
    choose(cast.olga, cast.olga, outcome_email=False)
    cast.deny(cast.submit())
    while sequence() + fan_out():
        pass
    told = set(Delivery.objects.filter(event="request.denied").values_list("user__username", "channel"))
    assert told == {("olga", "console")}


def test_wishes_of_many_cost_two_statements(cast: Cast, django_assert_num_queries) -> None:
    people = list(User.objects.all())
    with django_assert_num_queries(2):
        wishes = Wishes(people)
        assert all(wishes.want(person, "grant.expired", "email") for person in people)


def test_a_change_is_recorded_once_and_no_change_is_not(cast: Cast) -> None:
    assert choose(cast.anna, cast.anna, ended_email=False)
    assert not choose(cast.anna, cast.anna, ended_email=False)
    [entry] = Entry.objects.filter(event="preference.changed")
    assert '"ended/email":{"from":null,"to":false}' in entry.data
    assert entry.user == cast.anna.pk


def test_one_changes_ones_own_on_the_page(cast: Cast, browser: Callable[[User], Client]) -> None:
    anna, url = browser(cast.anna), reverse("notify:preferences")
    page = anna.get(url).content.decode()
    assert "My teams: on" in page
    assert anna.post(url, {"ended-email": "off", "asked-email": "", "nonsense": "off"}).url == url
    assert list(Preference.objects.values_list("user__username", "group", "channel", "on")) == [
        ("anna", "ended", "email", False)
    ]
    refused = anna.post(url, {"asked-email": "off", "asked-chat": "off"})
    assert refused.status_code == 400
    assert "Leave one way on" in refused.content.decode()
    assert Preference.objects.count() == 1


def test_a_team_is_seen_by_its_members_changed_by_who_may_and_unknown_to_others(
    cast: Cast, browser: Callable[[User], Client]
) -> None:
    url = reverse("notify:team_preferences", args=[cast.team.pk])
    assert "disabled" in browser(cast.olga).get(url).content.decode()
    assert browser(cast.olga).post(url, {"ended-email": "off"}).status_code == 403
    assert browser(cast.carl).get(url).status_code == 404
    assert browser(cast.carl).post(url, {"ended-email": "off"}).status_code == 404
    assert not Preference.objects.exists()
    assert browser(cast.admin).post(url, {"ended-email": "off"}).url == url
    assert Preference.objects.get().team == cast.team


def test_without_any_channel_the_page_says_so(cast: Cast, browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "WAYS", {})
    assert "Notices go to the log only" in browser(cast.anna).get(reverse("notify:preferences")).content.decode()
