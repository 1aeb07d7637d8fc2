from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from requests_app.models import Decision
from tests.cast import Cast


def test_a_decision_of_somebody_signed_out_decides_nothing_and_comes_back_to_the_page(cast: Cast) -> None:
    asked, client = cast.submit(), Client()
    answer = client.post(reverse("web:approve", args=[asked.pk]), {"digest": asked.digest})
    assert answer.status_code == 302
    assert answer.url == f"/accounts/login/?next={reverse('web:request', args=[asked.pk])}"
    assert "nothing was decided" in client.get(answer.url).content.decode()
    assert not Decision.objects.exists()


@pytest.mark.parametrize("name", ["web:inbox", "web:overview", "notify:preferences"])
def test_a_page_asks_whoever_is_signed_out_to_sign_in_first(cast: Cast, name: str) -> None:
    assert Client().get(reverse(name)).url == f"/accounts/login/?next={reverse(name)}"


def test_a_part_sends_the_whole_browser_to_sign_in_and_back_to_the_page_it_shows(cast: Cast) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/requests/?state=waiting"}
    answer = Client().get(reverse("web:inbox_part"), headers=headers)
    assert answer.headers["HX-Redirect"] == "/accounts/login/?next=/requests/%3Fstate%3Dwaiting"
    foreign = Client().get(reverse("web:inbox_part"), headers=headers | {"HX-Current-URL": "https://evil.example/x"})
    assert foreign.headers["HX-Redirect"] == "/accounts/login/?next=/"


def test_the_navigation_says_where_one_is_and_counts_what_waits(cast: Cast) -> None:
    cast.submit()
    client = Client()
    client.force_login(cast.anna, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/")
    inbox = page.context["nav"].groups[0].items[0]
    assert (inbox.label, inbox.here, inbox.count) == ("Inbox", True, 1)
    assert client.get("/requests/").context["nav"].groups[0].items[0].here is False
