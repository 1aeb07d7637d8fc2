"""My access: what is held, what waits, giving back, more time, withdrawing."""

from __future__ import annotations

import re

from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent
from requests_app.models import AccessRequest, Grant
from tests.cast import Cast

MINE = "/mine/"


def extendable(cast: Cast) -> Grant:
    cast.requestable.max_total_minutes = 480
    cast.requestable.save()
    return cast.grant()


def test_it_shows_what_is_held_and_what_waits_and_not_what_is_others(cast: Cast, browser) -> None:
    grant, waits = cast.grant(), cast.submit("git_reset")
    html = browser(cast.olga).get(MINE).content.decode()
    assert re.search(r">9 min</time></strong> left", html)
    assert f"g-{grant.pk}" in html
    assert f"r-{waits.pk}" in html
    for other in (cast.anna, cast.carl):
        html = browser(other).get(MINE).content.decode()
        assert "No access of yours" in html
        assert str(grant.pk) not in html


def test_it_is_given_back_in_the_persons_own_name(cast: Cast, browser) -> None:
    grant = cast.grant()
    response = browser(cast.olga).post(reverse("web:release", args=[grant.pk]))
    assert (response.status_code, response.url) == (302, MINE)
    grant.refresh_from_db()
    assert (grant.end_reason, grant.ended_by_name) == ("released", "olga")
    entry = Entry.objects.get(event="grant.released")
    assert (entry.user, entry.agent) == (cast.olga.pk, None)
    assert not cast.verdict("git_commit").allowed
    again = browser(cast.olga).post(reverse("web:release", args=[grant.pk]))
    assert again.status_code == 409
    assert Entry.objects.filter(event="grant.released").count() == 1


def test_others_give_back_and_extend_and_withdraw_nothing(cast: Cast, browser) -> None:
    grant, asked = extendable(cast), cast.submit("git_reset")
    more = {"minutes": "5", "reason": "More"}
    for other in (cast.anna, cast.carl):
        client = browser(other)
        assert client.post(reverse("web:release", args=[grant.pk])).status_code == 404
        assert client.post(reverse("web:extend", args=[grant.pk]), more).status_code in {403, 404}
        assert client.post(reverse("web:cancel", args=[asked.pk])).status_code == 404
    signed_out = Client().post(reverse("web:release", args=[grant.pk]))
    assert signed_out.url == f"/accounts/login/?next={MINE}"
    grant.refresh_from_db()
    asked.refresh_from_db()
    assert grant.ended_at is None
    assert asked.pending
    assert AccessRequest.objects.count() == 2


def test_more_time_is_a_request_of_its_own(cast: Cast, browser) -> None:
    grant = extendable(cast)
    assert "More time" in browser(cast.olga).get(MINE).content.decode()
    response = browser(cast.olga).post(
        reverse("web:extend", args=[grant.pk]), {"minutes": "20", "reason": "Not done yet"}
    )
    asked = AccessRequest.objects.get(extends=grant)
    assert response.url == reverse("web:request", args=[asked.pk])
    assert (asked.seconds, asked.filed_by, asked.pending) == (1200, cast.olga, True)
    before = grant.expires_at
    grant.refresh_from_db()
    assert grant.expires_at == before  # nobody has said yes


def test_what_cannot_be_extended_says_so_and_keeps_what_was_typed(cast: Cast, browser) -> None:
    grant = extendable(cast)
    response = browser(cast.olga).post(
        reverse("web:extend", args=[grant.pk]), {"minutes": "99999", "reason": "<b>Long</b>"}
    )
    assert response.status_code == 400
    html = response.content.decode()
    assert "Ask for between 1 min" in html
    assert "&lt;b&gt;Long&lt;/b&gt;" in html
    assert not AccessRequest.objects.filter(extends=grant).exists()


def test_a_pending_request_is_withdrawn(cast: Cast, browser) -> None:
    asked = cast.submit()
    assert browser(cast.olga).post(reverse("web:cancel", args=[asked.pk])).url == MINE
    asked.refresh_from_db()
    assert (asked.status, asked.closed_by_name) == ("cancelled", "olga")
    assert Entry.objects.get(event="request.cancelled").user == cast.olga.pk
    assert browser(cast.olga).post(reverse("web:cancel", args=[asked.pk])).status_code == 409


def test_it_takes_as_many_queries_for_ten_grants_as_for_one(cast: Cast, browser, django_assert_max_num_queries) -> None:
    for number in range(10):
        agent = Agent.objects.create(name=f"agent-{number}", owner=cast.olga, team=cast.team)
        cast.grant(principal=cast.principal(agent=agent))
    client = browser(cast.olga)
    with django_assert_max_num_queries(32):
        assert client.get(MINE).content.decode().count('class="row held"') == 10
