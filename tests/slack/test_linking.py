"""Who is who: by a link that was opened while signed in and confirmed in Slack, and by nothing else."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from django.core.cache import cache
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.identity.signed_in import end_sessions
from jitaccess.notify.slack.chores import seldom
from jitaccess.notify.slack.linking import link_of
from jitaccess.notify.slack.models import LinkCode, SlackLink
from tests.cast import OPERATOR, Cast
from tests.fakes.slack.server import TEAM
from tests.slack.conftest import Desk, name_of

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    cache.clear()  # of attempts by other tests


def signed_in(person) -> Client:
    """Who has just proved again who they are."""
    client = Client()
    client.post("/accounts/login/", {"login": person.username, "password": PASSWORD})
    prove(client)
    return client


def prove(client: Client, target: str = "/") -> str:
    """Where one is led after it."""
    answer = client.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": target})
    return str(answer["Location"])


def address(desk: Desk, slack_user: str) -> str:
    answer = desk.post(desk.slack.command(slack_user, "link"))
    assert answer.json()["response_type"] == "ephemeral"
    found = re.search(r"https://desk\.example(/slack/link/\S+)", answer.json()["text"])
    assert found
    return found[1]


def told(client: Client, url: str) -> str:
    """What the page says to type in Slack."""
    found = re.search(r"/access (link [2-9A-Z]{4}-[2-9A-Z]{4})", client.post(url).content.decode())
    assert found
    return found[1]


def typed(desk: Desk, slack_user: str, text: str) -> str:
    """What Slack shows whoever typed it."""
    answer = desk.post(desk.slack.command(slack_user, text)).json()
    assert answer["response_type"] == "ephemeral"
    return str(answer["text"])


def test_the_ceremony_links_the_signed_in_person_and_is_on_record(desk: Desk) -> None:
    url, client = address(desk, "U1CARL"), signed_in(desk.cast.carl)
    shown = client.get(url).content.decode()
    assert all(word in shown for word in ("u1carl", "U1CARL", TEAM, "jit", "carl"))
    assert LinkCode.objects.get().user is None, "looking changes nothing"
    word = told(client, url)
    assert link_of(TEAM, "U1CARL") is None, "nor does the page alone link anybody"
    assert not Entry.objects.filter(event="slack.linked").exists()
    assert word.split()[1].replace("-", "") not in str(list(LinkCode.objects.values()))
    assert "you are carl in jitaccess" in typed(desk, "U1CARL", word.lower())
    linked = link_of(TEAM, "U1CARL")
    assert linked
    assert linked.user == desk.cast.carl
    entry = Entry.objects.get(event="slack.linked")
    assert (entry.user_name, entry.source) == ("carl", f"slack {TEAM}/U1CARL")
    assert client.post(url).status_code == 404  # once
    assert "You are linked to carl" in typed(desk, "U1CARL", word)
    assert SlackLink.objects.filter(user=desk.cast.carl).count() == 1


def test_an_open_browser_is_not_enough_to_link(desk: Desk) -> None:
    """Whoever finds it, with a Slack account of their own, would decide as its owner long after it was closed."""
    url, found = address(desk, "U1CARL"), Client()
    found.post("/accounts/login/", {"login": "carl", "password": PASSWORD})
    assert "Is this you in Slack?" in found.get(url).content.decode()
    answer = found.post(url)
    assert answer["Location"] == f"/accounts/reauthenticate/?next={quote(url, safe='')}"
    assert (LinkCode.objects.get().user, LinkCode.objects.get().confirmation) == (None, "")
    assert prove(found, url) == url
    assert "you are carl" in typed(desk, "U1CARL", told(found, url))


def test_a_link_that_somebody_else_sends_links_nobody(desk: Desk) -> None:
    """Eve in Slack sends carl the link that she was given, and he believes it."""
    url, carl = address(desk, "U1EVE"), signed_in(desk.cast.carl)
    word = told(carl, url)
    assert "No link of yours" in typed(desk, "U1CARL", word), "it is not his Slack user who asked"
    for number in range(9):
        assert "Linked" not in typed(desk, "U1EVE", f"link 2222-222{number}")
    assert "Linked" not in typed(desk, "U1EVE", word), "and she does not try all words"
    assert not SlackLink.objects.filter(user=desk.cast.carl).exists()
    assert not SlackLink.objects.filter(slack_user="U1EVE").exists()
    assert not Entry.objects.filter(event="slack.linked").exists()


def test_whoever_gets_hold_of_a_link_does_not_take_it_over(desk: Desk) -> None:
    url, carl, olga = address(desk, "U1CARL"), signed_in(desk.cast.carl), signed_in(desk.cast.olga)
    word = told(carl, url)
    assert olga.post(url).status_code == 409
    assert "you are carl" in typed(desk, "U1CARL", word)


def test_a_word_ends_with_the_next_one_and_with_what_the_person_was_signed_in_with(desk: Desk) -> None:
    url, carl = address(desk, "U1CARL"), signed_in(desk.cast.carl)
    first, second = told(carl, url), told(carl, url)
    assert "not the code" in typed(desk, "U1CARL", first)
    end_sessions(user=desk.cast.carl, actor=OPERATOR, why="a test")
    assert "not the code" in typed(desk, "U1CARL", second)
    assert link_of(TEAM, "U1CARL") is None


def test_whoever_was_linked_against_their_will_ends_it_in_slack(desk: Desk) -> None:
    assert typed(desk, "U1ANNA", "unlink").startswith("Unlinked")
    assert link_of(TEAM, "U1ANNA") is None
    assert link_of(TEAM, "U1BERT")
    assert Entry.objects.get(event="slack.unlinked").source == f"slack {TEAM}/U1ANNA"
    assert typed(desk, "U1ANNA", "unlink") == "You are not linked."


def test_a_code_that_was_replaced_or_made_up_links_nobody(desk: Desk) -> None:
    first, client = address(desk, "U1CARL"), signed_in(desk.cast.carl)
    address(desk, "U1CARL")
    assert client.post(first).status_code == 404
    assert client.post("/slack/link/made-up/").status_code == 404
    assert link_of(TEAM, "U1CARL") is None


def test_a_code_ends_after_ten_minutes(desk: Desk, clock) -> None:
    url, client = address(desk, "U1CARL"), signed_in(desk.cast.carl)
    word = told(client, url)
    clock.shift(601)
    assert client.post(url).status_code == 404
    assert "No link of yours" in typed(desk, "U1CARL", word)
    assert link_of(TEAM, "U1CARL") is None


def test_linking_needs_somebody_signed_in_and_a_token_against_forgery(desk: Desk) -> None:
    url = address(desk, "U1CARL")
    assert "login" in Client().post(url)["Location"]
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(desk.cast.carl, backend="django.contrib.auth.backends.ModelBackend")
    assert strict.post(url).status_code == 403
    assert link_of(TEAM, "U1CARL") is None
    assert LinkCode.objects.get().used_at is None


def test_a_slack_user_of_one_person_is_not_taken_over_by_another(desk: Desk) -> None:
    url = address(desk, name_of(desk.cast.anna))
    assert signed_in(desk.cast.carl).post(url).status_code == 409
    linked = link_of(TEAM, "U1ANNA")
    assert linked
    assert linked.user == desk.cast.anna


def test_a_new_link_ends_the_one_before(desk: Desk) -> None:
    url = address(desk, "U1OTHER")
    word = told(signed_in(desk.cast.anna), url)
    assert link_of(TEAM, "U1ANNA")
    typed(desk, "U1OTHER", word)
    assert link_of(TEAM, "U1ANNA") is None
    assert SlackLink.objects.filter(user=desk.cast.anna, ended_at=None).get().slack_user == "U1OTHER"


def test_the_same_mail_address_or_name_is_nobody(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    stranger = {"id": "U1EVE", "username": "anna", "name": "anna", "email": desk.cast.anna.email, "team_id": TEAM}
    desk.post(desk.slack.press(mine, "approve", "U1EVE") | {"user": stranger})
    asked.refresh_from_db()
    assert asked.status == "pending"


def test_who_is_deactivated_decides_nothing_at_once_and_is_unlinked(desk: Desk) -> None:
    asked = desk.cast.submit()
    desk.catch_up()
    (mine,) = desk.slack.to("U1ANNA")
    desk.cast.anna.is_active = False
    desk.cast.anna.save()
    desk.press(mine, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"
    seldom()
    assert not SlackLink.objects.filter(user=desk.cast.anna, ended_at=None).exists()
    assert Entry.objects.filter(event="slack.unlinked").count() == 1
    # Somebody who comes back links again.
    desk.cast.anna.is_active = True
    desk.cast.anna.save()
    desk.press(mine, "approve", desk.cast.anna)
    asked.refresh_from_db()
    assert asked.status == "pending"


def test_unlinking_oneself(desk: Desk) -> None:
    client = signed_in(desk.cast.anna)
    assert client.get("/slack/unlink/").status_code == 405
    assert link_of(TEAM, "U1ANNA")
    client.post("/slack/unlink/")
    assert link_of(TEAM, "U1ANNA") is None
    assert Entry.objects.get(event="slack.unlinked").user_name == "anna"


@pytest.mark.parametrize("word", ["help", "approve everything"])
def test_other_words_of_the_command_explain_it(desk: Desk, word: str) -> None:
    assert "/access link" in desk.post(desk.slack.command("U1ANNA", word)).json()["text"]


def test_the_page_shows_staff_what_went_wrong_and_nobody_else(cast: Cast, desk: Desk, settings) -> None:
    settings.SLACK_CHANNELS = ["C0GONE"]
    cast.submit()
    desk.catch_up()
    staff, other = signed_in(cast.admin), signed_in(cast.anna)
    page = staff.get("/slack/").content.decode()
    assert "channel_not_found" in page
    assert "Given up" in page
    assert "channel_not_found" not in other.get("/slack/").content.decode()
    assert "channel_not_found" not in signed_in(cast.carl).get("/slack/").content.decode()
    card = re.search(r"/slack/messages/[0-9a-f-]+/retry/", page)
    assert card
    assert other.post(card[0]).status_code == 404
    desk.slack.channels.add("C0GONE")
    desk.catch_up()
    assert not desk.slack.to("C0GONE")  # given up until somebody says otherwise, or something happens
    staff.post(card[0])
    desk.catch_up()
    assert len(desk.slack.to("C0GONE")) == 1
