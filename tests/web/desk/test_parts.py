"""What live pages fetch anew: the same as the page, for whoever may see the page, and never a form."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from tests.cast import Cast

PARTS = ("status", "progress", "timeline")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_for_whoever_may_see_the_page(cast: Cast, browser, name: str) -> None:
    asked = cast.submit()
    path = reverse("web:request_part", args=[asked.pk, name])
    html = browser(cast.anna).get(path).content.decode()
    assert "<html" not in html
    assert "<form" not in html
    assert browser(cast.carl).get(path).status_code == 404
    assert Client().get(path).status_code == 302
    assert Client().get(path, headers={"HX-Request": "true"})["HX-Redirect"].startswith("/accounts/login/")
    assert browser(cast.anna).post(path).status_code == 405


def test_there_is_no_other_part(cast: Cast, browser) -> None:
    asked = cast.submit()
    assert browser(cast.anna).get(reverse("web:request_part", args=[asked.pk, "effects"])).status_code == 404


def test_a_page_that_was_made_before_a_decision_says_so(cast: Cast, browser) -> None:
    asked, client = cast.submit(), browser(cast.anna)
    assert "Load it again" not in client.get(reverse("web:request", args=[asked.pk])).content.decode()
    cast.approve(asked, cast.bert)
    path = reverse("web:request_part", args=[asked.pk, "status"])
    html = client.get(f"{path}?was=Waiting").content.decode()
    assert "Active" in html
    assert "Load it again" in html
    assert "Load it again" not in client.get(f"{path}?was=Active").content.decode()
    assert "bert" in client.get(reverse("web:request_part", args=[asked.pk, "progress"])).content.decode()


def test_the_inbox_is_fetched_as_a_part_of_ones_own(cast: Cast, browser) -> None:
    asked = cast.submit()
    assert str(asked.pk) in browser(cast.anna).get("/inbox/part/").content.decode()
    html = browser(cast.carl).get("/inbox/part/").content.decode()
    assert str(asked.pk) not in html
    assert "<form" not in html
    assert Client().get("/inbox/part/").status_code == 302


def test_who_asked_withdraws_it_on_its_page_and_nobody_else(cast: Cast, browser) -> None:
    asked = cast.submit()
    page, cancel = (reverse(f"web:{name}", args=[asked.pk]) for name in ("request", "cancel"))
    assert cancel in browser(cast.olga).get(page).content.decode()
    assert cancel not in browser(cast.anna).get(page).content.decode()
    assert browser(cast.anna).post(cancel).status_code == 404
    asked.refresh_from_db()
    assert asked.pending
