"""Sign-in by OpenID Connect, against a provider that can lie."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.socialaccount.models import SocialAccount, SocialToken
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.cache import cache
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import User
from requests_app.models import Decision
from tests.cast import Cast
from tests.fakes.oidc_provider import CLIENT, SECRET, Provider, provider

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def idp(running: Provider, settings: Any) -> Provider:
    cache.clear()
    settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = running.issuer, CLIENT, SECRET
    settings.OIDC_NAME = "Example SSO"
    settings.EGRESS_ALLOW = [urlsplit(running.issuer).netloc]
    running.subject, running.alg, running.kid, running.key = "s-4711", "ES256", "k1", None
    running.claims, running.token, running.discovery = {}, {}, {}
    return running


def away(answer: Any) -> str:
    """Where a page leads by itself."""
    html = answer.content.decode()
    assert answer.status_code == 200, html
    return unescape(html.partition('http-equiv="refresh" content="0; url=')[2].partition('"')[0])


def through(client: Client, idp: Provider, path: str = "/accounts/oidc/login/", **form: str) -> Any:
    """There and back, as a browser."""
    back = urlsplit(idp.authorize(away(client.post(path, form))))
    return client.get(f"{back.path}?{back.query}")


def linked(user: User, subject: str = "s-4711") -> SocialAccount:
    return SocialAccount.objects.create(user=user, provider=provider_id(), uid=subject)


def who(client: Client) -> str | None:
    return client.session.get("_auth_user_id")


def said(event: str) -> list[str]:
    return list(Entry.objects.filter(event=event).order_by("uid").values_list("data", flat=True))


def test_somebody_who_is_linked_signs_in_and_it_is_on_record(cast: Cast, idp: Provider) -> None:
    linked(cast.anna)
    client = Client()
    answer = through(client, idp, next="/requests/")
    assert (answer.status_code, answer.url) == (302, "/requests/")
    assert who(client) == str(cast.anna.pk)
    assert said("user.signed_in") == ['{"with":"oidc"}']
    assert not SocialToken.objects.exists()


def test_the_way_there_has_a_nonce_and_pkce_and_takes_nothing_from_the_form(cast: Cast, idp: Provider) -> None:
    evil = "/accounts/oidc/login/?auth_params=nonce%3Dmine%26redirect_uri%3Dhttps%3A%2F%2Fevil.example&scope=admin"
    answer = Client().post(evil)
    asked = parse_qs(urlsplit(away(answer)).query)
    assert len(asked["nonce"][0]) == 64
    assert asked["redirect_uri"] == ["http://127.0.0.1:8000/accounts/oidc/callback/"]
    assert "admin" not in asked["scope"][0]
    assert "form-action 'self';" in answer.headers["Content-Security-Policy"], "no form goes there: a page leads on"
    assert Client().get("/accounts/oidc/login/").status_code == 405
    assert Client(enforce_csrf_checks=True).post("/accounts/oidc/login/").status_code == 403


LIES: dict[str, dict[str, Any]] = {
    "another nonce": {"token": {"nonce": "mine"}},
    "no nonce": {"token": {"nonce": None}},
    "another issuer": {"token": {"iss": "https://other.example"}},
    "another audience": {"token": {"aud": "another-client"}},
    "several audiences without azp": {"token": {"aud": [CLIENT, "another-client"]}},
    "another party": {"token": {"azp": "another-client"}},
    "expired": {"token": {"exp": 1_000_000_000}},
    "from the future": {"token": {"iat": 9_000_000_000}},
    "no subject": {"token": {"sub": None}},
    "an empty subject": {"token": {"sub": ""}},
    "not signed": {"alg": "none"},
    "signed by another key": {"key": ec.generate_private_key(ec.SECP256R1())},
    "signed with the client's secret": {"alg": "HS256", "key": SECRET * 2},
    "a key that is not there": {"kid": "k2"},
    "another issuer in the discovery document": {"discovery": {"issuer": "https://other.example"}},
    "no keys": {"discovery": {"jwks_uri": "file:///etc/passwd"}},
    "another client's token endpoint": {"discovery": {"token_endpoint": "http://169.254.169.254/token"}},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_provider_that_lies_signs_nobody_in(cast: Cast, idp: Provider, lie: str) -> None:
    linked(cast.anna)
    for name, value in LIES[lie].items():
        setattr(idp, name, value)
    client = Client()
    answer = client.post("/accounts/oidc/login/")
    if answer.status_code == 200:
        back = urlsplit(idp.authorize(away(answer)))
        answer = client.get(f"{back.path}?{back.query}")
    assert answer.status_code == 401
    assert "That sign-in did not work" in answer.content.decode()
    assert "example" not in answer.content.decode(), "what it said is not repeated"
    assert who(client) is None
    assert said("user.signed_in") == []
    assert said("user.sign_in_failed") == ['{"for_user":"","with":"oidc"}']


def test_an_answer_is_good_once_in_the_browser_that_asked(cast: Cast, idp: Provider) -> None:
    linked(cast.anna)
    mine, others = Client(), Client()
    back = urlsplit(idp.authorize(away(mine.post("/accounts/oidc/login/"))))
    path = f"{back.path}?{back.query}"
    assert others.get(path).status_code == 401, "another browser's"
    assert who(others) is None
    other_issuer = path.replace(f"iss={back.query.rpartition('iss=')[2]}", "iss=https%3A%2F%2Fother.example")
    assert mine.get(other_issuer).status_code == 401
    assert mine.get(path).status_code == 302
    again = Client()
    again.cookies = mine.cookies
    assert mine.get(path).status_code == 401
    assert mine.post(path).status_code == 405


def test_the_same_address_and_name_are_another_person(cast: Cast, idp: Provider, settings: Any) -> None:
    settings.OIDC_CREATE = True
    idp.claims = {"email": "anna@example.test", "email_verified": True, "preferred_username": "anna"}
    client = Client()
    assert through(client, idp).status_code == 302
    made = User.objects.get(pk=who(client))
    assert made != cast.anna
    assert made.username.startswith("anna-")
    assert not made.has_usable_password()
    assert (made.is_staff, made.is_superuser, made.teams.count()) == (False, False, 0)
    assert '"new_account":"yes"' in said("identity.linked")[0]
    idp.claims = {"preferred_username": "admin", "email": "other@example.test"}
    again = Client()
    assert through(again, idp).status_code == 302
    assert who(again) == str(made.pk), "known by the subject, whatever the name is now"
    made.refresh_from_db()
    assert made.username.startswith("anna-")


def test_an_address_that_the_provider_has_not_checked_gets_no_notices(cast: Cast, idp: Provider, settings: Any) -> None:
    settings.OIDC_CREATE = True
    idp.claims = {"email": "anna@example.test", "email_verified": "true", "preferred_username": "\u202e<b>"}
    client = Client()
    through(client, idp)
    made = User.objects.get(pk=who(client))
    assert made.email == ""
    assert made.username.startswith("b-")


def test_nobody_is_made_unless_configured_and_the_inactive_stay_out(cast: Cast, idp: Provider) -> None:
    people = User.objects.count()
    client = Client()
    assert through(client, idp).status_code == 403
    assert (who(client), User.objects.count()) == (None, people)
    linked(cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    assert through(client, idp).url == "/accounts/inactive/"
    assert who(client) is None
    assert said("user.sign_in_failed") == ['{"for_user":"","with":"oidc"}', '{"for_user":"anna","with":"oidc"}']


def test_another_issuer_is_another_world(cast: Cast, idp: Provider, settings: Any) -> None:
    SocialAccount.objects.create(user=cast.admin, provider="oidc-of-another-issuer", uid="s-4711")
    client = Client()
    assert through(client, idp).status_code == 403
    assert who(client) is None


def test_people_link_their_account_after_a_proof_and_nobody_elses(cast: Cast, idp: Provider) -> None:
    client = Client()
    client.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert client.post("/accounts/oidc/link/").url.startswith("/accounts/reauthenticate/")
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert through(client, idp, "/accounts/oidc/link/").url == "/accounts/security/"
    assert SocialAccount.objects.get().user == cast.anna
    assert len(said("identity.linked")) == 1
    other = Client()
    other.post("/accounts/login/", {"login": "bert", "password": PASSWORD})
    other.post("/accounts/reauthenticate/", {"password": PASSWORD})
    through(other, idp, "/accounts/oidc/link/")
    assert SocialAccount.objects.get().user == cast.anna
    idp.subject = "s-2"
    through(client, idp, "/accounts/oidc/link/")
    assert SocialAccount.objects.get().uid == "s-4711", "one at a time"
    assert client.post("/accounts/oidc/unlink/").status_code == 302
    assert not SocialAccount.objects.exists()
    assert len(said("identity.unlinked")) == 1


def test_the_only_way_in_is_not_unlinked(cast: Cast, idp: Provider) -> None:
    linked(cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(password="!none")
    client = Client()
    through(client, idp)
    through(client, idp, "/accounts/reauthenticate/provider/", next="/accounts/security/")
    client.post("/accounts/oidc/unlink/")
    assert SocialAccount.objects.exists()


@pytest.mark.parametrize(
    ("token", "proves"),
    [({}, True), ({"auth_time": 1_000_000_000}, False), ({"auth_time": None}, False), ({"auth_time": True}, False),
     ({"auth_time": 9_000_000_000}, False), ({"sub": "s-2"}, False)],
)  # fmt: skip
def test_people_without_anything_else_prove_who_they_are_by_the_provider(
    cast: Cast, idp: Provider, token: dict[str, Any], proves: bool
) -> None:
    linked(cast.anna)
    linked(cast.bert, "s-2")
    User.objects.filter(pk=cast.anna.pk).update(password="!none")
    cast.change_policy(step_up=True)
    asked = cast.submit()
    page = f"/requests/{asked.pk}/"
    client = Client()
    through(client, idp)
    assert client.post(f"{page}approve/", {"digest": asked.digest}).status_code == 403
    assert client.get(f"/accounts/reauthenticate/?next={page}").url.startswith("/accounts/reauthenticate/provider/")
    leaving = client.post("/accounts/reauthenticate/provider/", {"next": page})
    asks = parse_qs(urlsplit(away(leaving)).query)
    assert (asks["prompt"], asks["max_age"]) == (["login"], ["0"])
    idp.token = token
    answer = through(client, idp, "/accounts/reauthenticate/provider/", next=page)
    assert (answer.status_code, answer.headers.get("location")) == ((302, page) if proves else (403, None))
    assert who(client) == str(cast.anna.pk)
    assert not Decision.objects.exists()
    decided = client.post(f"{page}approve/", {"digest": asked.digest}).status_code
    assert decided == (302 if proves else 403)
    assert Decision.objects.exists() == proves


def test_the_provider_proves_nothing_for_who_has_something_better(cast: Cast, idp: Provider) -> None:
    linked(cast.anna)
    client = Client()
    through(client, idp)
    assert client.post("/accounts/reauthenticate/provider/").url == "/accounts/reauthenticate/"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_no_way_by_the_provider_leads_elsewhere(cast: Cast, idp: Provider, target: str) -> None:
    linked(cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(password="!none")
    client = Client()
    assert through(client, idp, next=target).url == "/"
    assert through(client, idp, "/accounts/reauthenticate/provider/", next=target).url == "/"


def test_whoever_cancels_there_is_back_at_the_sign_in(cast: Cast, idp: Provider) -> None:
    client = Client()
    state = parse_qs(urlsplit(away(client.post("/accounts/oidc/login/"))).query)["state"][0]
    answer = client.get(f"/accounts/oidc/callback/?error=access_denied&state={state}")
    assert answer.url == "/accounts/login/"
    assert client.get("/accounts/oidc/callback/").status_code == 401


def test_a_provider_that_may_not_be_reached_is_told_as_a_page(cast: Cast, idp: Provider, settings: Any) -> None:
    settings.EGRESS_ALLOW = []
    asked = len(idp.asked)
    assert Client().post("/accounts/oidc/login/").status_code == 401
    assert len(idp.asked) == asked


def test_nothing_is_there_where_no_provider_is_configured(cast: Cast) -> None:
    client = Client()
    client.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert Client().post("/accounts/oidc/login/").status_code == 404
    assert client.post("/accounts/oidc/link/").status_code == 404
    assert client.get("/accounts/oidc/callback/?code=1&state=2").status_code == 404
    assert "Example SSO" not in client.get("/accounts/security/").content.decode()
