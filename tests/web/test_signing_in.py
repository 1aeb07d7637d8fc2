from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import SignInLink, User
from jitaccess.identity.services import issue_sign_in_link
from jitaccess.store.clock import now
from tests.cast import Cast


def link_for(user: User, ttl: int = 600) -> str:
    return reverse("web:sign_in", args=[issue_sign_in_link(user=user, ttl=ttl, operator=Actor.system("test"))])


def signed_in(client: Client) -> str | None:
    return client.session.get("_auth_user_id")


def entries() -> list[tuple[str, str]]:
    return list(Entry.objects.filter(event="user.signed_in").values_list("user_name", "data"))


def test_looking_at_a_link_does_not_use_it_up(cast: Cast) -> None:
    link, client = link_for(cast.anna), Client()
    for _ in range(2):
        response = client.get(link)
        assert response.status_code == 200
        assert "Sign in as" in response.content.decode()
    client.head(link)
    assert signed_in(client) is None
    assert SignInLink.objects.get().used_at is None
    assert entries() == []


def test_a_link_signs_in_once_and_is_on_record_once(cast: Cast) -> None:
    link, client = link_for(cast.anna), Client()
    response = client.post(link)
    assert (response.status_code, response.url) == (302, "/")
    assert signed_in(client) == str(cast.anna.pk)
    assert entries() == [("anna", '{"with":"sign_in_link"}')]
    second = Client()
    for answer in (second.post(link), second.get(link)):
        assert answer.status_code == 404
        assert "already used" in answer.content.decode()
    assert signed_in(second) is None
    assert len(entries()) == 1


def test_signing_in_changes_the_session_key(cast: Cast) -> None:
    client = Client()
    session = client.session
    session["planted"] = True
    session.save()
    planted = session.session_key
    client.cookies["sessionid"] = planted
    client.post(link_for(cast.anna))
    assert client.session.session_key != planted


def test_an_expired_link_signs_nobody_in(cast: Cast) -> None:
    link, client = link_for(cast.anna), Client()
    SignInLink.objects.update(expires_at=now())
    assert client.post(link).status_code == 404
    assert signed_in(client) is None


def test_a_link_needs_its_form(cast: Cast) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post(link_for(cast.anna)).status_code == 403
    assert signed_in(client) is None
    assert SignInLink.objects.get().used_at is None


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "///evil.example",
        "javascript:alert(1)",
        "evil.example",
        "\t//evil.example",
    ],
)
def test_a_link_leads_nowhere_else(cast: Cast, target: str) -> None:
    response = Client().post(link_for(cast.anna), {"next": target})
    assert (response.status_code, response.url) == (302, "/")


def test_a_link_leads_to_a_page_of_this_site(cast: Cast) -> None:
    asked = cast.submit()
    target = f"/requests/{asked.pk}/"
    client = Client()
    link = link_for(cast.anna)
    assert f'value="{target}"' in client.get(f"{link}?next={target}").content.decode()
    assert client.post(link, {"next": target}).url == target


def test_a_password_signs_in_and_is_on_record(cast: Cast) -> None:
    client = Client()
    client.post("/accounts/login/", {"login": "anna", "password": "not it, sorry"})
    assert signed_in(client) is None
    assert entries() == []
    response = client.post("/accounts/login/", {"login": "anna", "password": "correct horse battery"})
    assert response.status_code == 302
    assert signed_in(client) == str(cast.anna.pk)
    assert entries() == [("anna", '{"with":"password"}')]


def test_the_login_page_sends_nobody_elsewhere(cast: Cast) -> None:
    form = {"login": "anna", "password": "correct horse battery", "next": "https://evil.example/"}
    assert Client().post("/accounts/login/", form).url == "/"


def test_nobody_signs_up(cast: Cast) -> None:
    form = {"username": "mallory", "password1": "a long word of m", "password2": "a long word of m"}
    response = Client().post("/accounts/signup/", form)
    assert "site.css" in response.content.decode()
    assert not User.objects.filter(username="mallory").exists()


def test_signing_out_takes_a_post(cast: Cast, browser) -> None:
    client = browser(cast.anna)
    assert "Sign out?" in client.get("/accounts/logout/").content.decode()
    assert signed_in(client)
    client.post("/accounts/logout/")
    assert signed_in(client) is None
