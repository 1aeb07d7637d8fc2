"""The list of requests: all of them can be reached, however many an agent files."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest
from django.test import Client

from jitaccess.identity.models import Agent
from jitaccess.kernel.ids import uuid7
from requests_app.models import AccessRequest, Grant
from requests_app.services import cancel_request, release_grant
from tests.cast import Cast, like
from tests.clocks import Clock


def filed(cast: Cast, count: int) -> list[UUID]:
    """`count` denied requests, oldest first."""
    denied = cast.deny(cast.submit())
    values = AccessRequest.objects.filter(pk=denied.pk).values().get()
    made = [AccessRequest(**(values | {"id": uuid7()})) for _ in range(count - 1)]
    like(denied, made)
    return [values["id"], *(row.pk for row in made)]


def shown(client: Client, address: str = "/requests/") -> tuple[list[UUID], dict[str, str]]:
    """The requests on a page, and its links to others by their text."""
    response = client.get(address)
    assert response.status_code == 200
    html = response.content.decode()
    links = {
        text: href.replace("&amp;", "&") for href, text in re.findall(r' rel="\w+" href="(.*?)">\W*(\w+)\W*</a>', html)
    }
    return [row.request.pk for row in response.context["rows"]], links


def test_the_oldest_request_is_found_by_going_on(cast: Cast, browser) -> None:
    ids = filed(cast, 120)[::-1]
    for user in (cast.anna, cast.olga, cast.admin):
        client = browser(user)
        first, links = shown(client)
        assert (first, links.keys()) == (ids[:50], {"Older"})
        second, links = shown(client, "/requests/" + links["Older"])
        assert (second, links.keys()) == (ids[50:100], {"Older", "Newer"})
        last, on = shown(client, "/requests/" + links["Older"])
        assert (last, on.keys()) == (ids[100:], {"Newer"})
        assert shown(client, "/requests/" + on["Newer"])[0] == second
        again, on = shown(client, "/requests/" + links["Newer"])
        assert (again, on.keys()) == (first, {"Older"})
    assert shown(browser(cast.carl)) == ([], {})


def test_a_whole_page_has_no_further_one(cast: Cast, browser) -> None:
    ids = filed(cast, 50)
    assert shown(browser(cast.anna)) == (ids[::-1], {})


def test_the_list_by_how_requests_stand(cast: Cast, browser, clock: Clock) -> None:
    stands: dict[str, set[UUID]] = {"ended": set(), "undecided": set()}
    expired = cast.grant(seconds=60)
    lapsed = cast.submit("git_add")
    clock.shift(3601)  # no sweep comes by
    stands["ended"].add(expired.request_id)
    stands["undecided"].add(lapsed.pk)
    released = cast.grant(seconds=60)
    release_grant(grant_id=released.pk, principal=cast.principal())
    stands["ended"].add(released.request_id)
    withdrawn = cast.submit("git_reset")
    cancel_request(request_id=withdrawn.pk, principal=cast.principal())
    stands["undecided"].add(withdrawn.pk)
    stands["denied"] = {cast.deny(cast.submit("git_reset")).pk}
    stands["active"] = {cast.grant("git_reset").request_id}
    stands["waiting"] = {cast.submit("git_commit").pk}
    client = browser(cast.anna)
    for state, expected in stands.items():
        found, links = shown(client, f"/requests/?state={state}")
        assert (set(found), len(found), links) == (expected, len(expected), {}), state
    assert set(shown(client)[0]) == set().union(*stands.values())
    html = client.get("/requests/?state=denied").content.decode()
    assert '<a href="?state=denied" aria-current="page">Denied</a>' in html
    assert '<a href="?state=waiting">Waiting</a>' in html


def test_going_on_keeps_the_choice(cast: Cast, browser) -> None:
    cast.submit("git_add")
    ids = filed(cast, 60)
    first, links = shown(browser(cast.anna), "/requests/?state=denied")
    assert first == ids[:9:-1]
    second, links = shown(browser(cast.anna), "/requests/" + links["Older"])
    assert second == ids[9::-1]
    assert links["Newer"].startswith("?state=denied&after=")


@pytest.mark.parametrize("query", ["state=x", "before=x", "after=1", "state=denied&before=%00", "state=<script>"])
def test_a_part_that_does_not_exist_is_refused(cast: Cast, browser, query: str) -> None:
    assert browser(cast.anna).get(f"/requests/?{query}").status_code == 400


def test_before_a_foreign_or_unknown_request_shows_only_ones_own(cast: Cast, browser) -> None:
    ids = filed(cast, 2)
    client = browser(cast.carl)
    for name in ("before", "after"):
        for value in (ids[0], ids[1], uuid4()):
            assert shown(client, f"/requests/?{name}={value}") == ([], {})


def test_a_full_page_costs_a_bounded_number_of_queries(cast: Cast, browser, django_assert_max_num_queries) -> None:
    for number in range(3):
        agent = Agent.objects.create(name=f"agent-{number}", owner=cast.olga, team=cast.team)
        cast.grant(principal=cast.principal(agent=agent))
    middle = filed(cast, 120)[60]
    client = browser(cast.anna)
    for query in ("", "?state=denied", f"?before={middle}", f"?after={middle}", "?state=active"):
        with django_assert_max_num_queries(18):
            client.get(f"/requests/{query}")
    assert Grant.objects.count() == 3
