"""What of allauth is reachable: signing in and out, and changing a password that one knows."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import NoReverseMatch, get_resolver, reverse

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.services import issue_sign_in_link, use_sign_in_link
from jitaccess.kernel.errors import NotFound
from tests.cast import Cast

OLD, NEW = "correct horse battery", "a quite different one"
REMOVED = [
    "signup/", "email/", "confirm-email/", "confirm-email/abc/", "password/reset/", "password/reset/done/",
    "password/reset/key/abc-def/", "password/reset/key/done/", "password/set/", "login/code/confirm/",
    "login/code/", "",
]  # fmt: skip


def change(client: Client, old: str = OLD, new: str = NEW) -> Any:
    return client.post(
        reverse("account_change_password"), {"oldpassword": old, "password1": new, "password2": new}, follow=True
    )


def inside(client: Client) -> bool:
    return bool(client.get("/").status_code == 200)


def records() -> list[tuple[str, str, str]]:
    return list(Entry.objects.filter(event="user.password_changed").values_list("user_name", "source", "data"))


def test_nothing_else_is_routed_under_accounts() -> None:
    (accounts,) = (one for one in get_resolver().url_patterns if str(one.pattern).startswith("accounts"))
    assert {str(one.pattern) for one in accounts.url_patterns} == {
        "login/", "logout/", "inactive/", "password/change/", "password/set/", "security/", "sessions/end/",
        "reauthenticate/", "reauthenticate/code/", "reauthenticate/passkey/", "reauthenticate/provider/", "two-factor/",
        "totp/add/", "totp/remove/", "passkeys/sign-in/", "passkeys/add/", "passkeys/<int:pk>/remove/",
        "recovery-codes/", "recovery-codes/new/", "oidc/login/", "oidc/callback/", "oidc/link/", "oidc/unlink/",
    }  # fmt: skip
    for name in ("account_signup", "account_reset_password", "account_email", "socialaccount_signup"):
        with pytest.raises(NoReverseMatch):
            reverse(name)


@pytest.mark.parametrize("path", REMOVED)
def test_what_was_removed_is_not_there_for_anybody(cast: Cast, browser, path: str) -> None:
    people, users = (Client(), browser(cast.anna)), list(User.objects.order_by("pk").values())
    form = {"username": "mallory", "email": "anna@example.test", "password1": NEW, "password2": NEW}
    for client in people:
        for response in (client.get(f"/accounts/{path}"), client.post(f"/accounts/{path}", form)):
            assert response.status_code == 404
    assert list(User.objects.order_by("pk").values()) == users


def test_a_new_password_takes_the_old_one(cast: Cast, browser) -> None:
    client = browser(cast.anna)
    assert change(client, old="not it").context["form"].errors.keys() == {"oldpassword"}
    assert change(client, old="").context["form"].errors.keys() == {"oldpassword"}
    cast.anna.refresh_from_db()
    assert cast.anna.check_password(OLD)
    assert records() == []


def test_a_changed_password_is_on_record_and_ends_the_other_sessions(cast: Cast, browser) -> None:
    mine, elsewhere, others = browser(cast.anna), browser(cast.anna), browser(cast.bert)
    assert change(mine).status_code == 200
    cast.anna.refresh_from_db()
    assert cast.anna.check_password(NEW)
    assert records() == [("anna", "127.0.0.1", "{}")]
    assert Entry.objects.get(event="user.password_changed").user == cast.anna.pk
    assert (inside(mine), inside(elsewhere), inside(others)) == (True, False, True)


def test_a_new_password_writes_back_nothing_else(cast: Cast) -> None:
    """The row that a request has read may be stale: whoever was shut out since stays out."""
    from allauth.account.adapter import get_adapter
    from allauth.core import context
    from django.test import RequestFactory

    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    with context.request_context(RequestFactory().get("/")):
        get_adapter().set_password(cast.anna, NEW)
    cast.anna.refresh_from_db()
    assert not cast.anna.is_active


def test_who_has_no_password_sets_none_from_a_session(cast: Cast, browser) -> None:
    cast.anna.set_unusable_password()
    cast.anna.save()
    client = browser(cast.anna)
    assert change(client).status_code == 404
    assert "password/change" not in client.get("/").content.decode()
    cast.anna.refresh_from_db()
    assert not cast.anna.has_usable_password()


def test_an_inactive_person_is_told_and_stays_out(cast: Cast) -> None:
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    client = Client()
    response = client.post("/accounts/login/", {"login": "anna", "password": OLD}, follow=True)
    assert response.status_code == 200
    assert not inside(client)


def test_no_page_offers_what_was_removed(cast: Cast, browser) -> None:
    pages = [Client().get("/accounts/login/"), Client().get("/accounts/inactive/")]
    pages += [browser(cast.anna).get(f"/accounts/{path}/") for path in ("password/change", "logout")]
    for page in pages:
        assert page.status_code == 200
        html = page.content.decode()
        assert "site.css" in html
        assert not any(f"/accounts/{path}" in html for path in REMOVED if path)


def test_a_changed_password_takes_back_the_links_that_were_given_out_before(cast: Cast, browser) -> None:
    link = issue_sign_in_link(user=cast.anna, ttl=600, operator=cast.operator)
    assert change(browser(cast.anna)).status_code == 200
    with pytest.raises(NotFound):
        use_sign_in_link(link)
