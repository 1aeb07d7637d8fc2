"""The break-glass page: rights, uses, reviews; and what foreign people see of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.identity.models import Team
from jitaccess.policy.models import BreakGlass
from requests_app.models import Grant, Review
from tests.cast import Cast

PAGE = "/break-glass/"


@pytest.fixture
def right(cast: Cast) -> BreakGlass:
    """olga's; anna reviews."""
    watch = Team.objects.create(name="watch")
    watch.members.add(cast.anna)
    made = BreakGlass.objects.create(name="look-inside", role=cast.read_only, max_minutes=30, reviewers=watch)
    made.users.add(cast.olga)
    return made


def use(client: Client, cast: Cast, right: BreakGlass, **changes: Any) -> Any:
    form = {"agent": str(cast.agent.pk), "minutes": "10", "reason": "It is <b>down</b>"} | changes
    return client.post(reverse("web:use_break_glass", args=[right.pk]), form)


def test_a_right_is_used_reviewed_and_shown(cast: Cast, right: BreakGlass, browser: Callable[..., Client]) -> None:
    olga, anna, carl = browser(cast.olga), browser(cast.anna), browser(cast.carl)
    assert "your break-glass rights" in olga.get("/").content.decode()
    assert "Break the glass" in olga.get(PAGE).content.decode()
    assert use(olga, cast, right).url == PAGE
    grant = Grant.objects.get()
    assert (grant.expires_at - grant.starts_at).total_seconds() == 600
    assert "broke the glass" in olga.get(f"/requests/{grant.request_id}/").content.decode()
    assert "To be reviewed" in olga.get(PAGE).content.decode()
    assert "1 use of break-glass</a> waits for your review" in anna.get("/").content.decode()
    page = anna.get(PAGE).content.decode()
    assert "It is &lt;b&gt;down&lt;/b&gt;" in page
    assert "role:read-only" in page
    for client in (olga, carl):
        page = client.get(PAGE).content.decode()
        assert "Finish the review" not in page
        answer = client.post(reverse("web:review", args=[grant.pk]), {"note": "x"})
        assert answer.status_code in {403, 404}
    assert "No break-glass rights" in carl.get(PAGE).content.decode()
    assert anna.post(reverse("web:stop_break_glass", args=[grant.pk])).url == PAGE
    assert "Revoke access" not in anna.get(PAGE).content.decode()
    assert anna.post(reverse("web:review", args=[grant.pk]), {"note": "Fine."}).url == PAGE
    assert Review.objects.get().done_by == cast.anna
    assert "Fine." in olga.get(PAGE).content.decode()


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"reason": " "}, 400, "Say why"),
        ({"minutes": "31"}, 400, "look-inside is for between"),
        ({"minutes": "٣"}, 400, "whole number"),
        ({"minutes": "-5"}, 400, "whole number"),
        ({"agent": "x"}, 404, "Choose an agent"),
    ],
)
def test_what_is_wrong_is_said_on_the_page(
    changes: dict[str, str], status: int, said: str, cast: Cast, right: BreakGlass, browser: Callable[..., Client]
) -> None:
    answer = use(browser(cast.olga), cast, right, **changes)
    assert answer.status_code == status
    assert said in answer.content.decode()
    assert not Grant.objects.exists()


def test_nobody_else_uses_it_and_no_link_does(cast: Cast, right: BreakGlass, browser: Callable[..., Client]) -> None:
    cast.agent.users.add(cast.carl)
    assert use(browser(cast.carl), cast, right).status_code == 404
    assert 'href="/accounts/login/?next=/break-glass/"' in use(Client(), cast, right).content.decode()
    assert browser(cast.olga).get(reverse("web:use_break_glass", args=[right.pk])).status_code == 405
    assert use(browser(cast.olga, csrf=True), cast, right).status_code == 403
    assert not Grant.objects.exists()
