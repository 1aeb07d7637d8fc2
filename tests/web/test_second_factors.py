"""Second factors, step-up and sessions, as people meet them."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.factors import Resealed, reseal_factors, reset_factors, sealed_with
from jitaccess.identity.models import User
from jitaccess.identity.services import issue_sign_in_link
from jitaccess.identity.sessions import person_of_cookie
from jitaccess.identity.signed_in import end_sessions
from jitaccess.kernel.errors import Forbidden
from jitaccess.kernel.secretbox import KeyRing, generate_key
from jitaccess.runtime.decide_commands import _authenticate
from jitaccess.store.sealing import ring_text
from requests_app.models import Decision
from tests.cast import Cast

PASSWORD = "correct horse battery"
OPERATOR = Actor(user_name="operator")


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    cache.clear()  # of attempts by other tests


def code_of(secret: str) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30))


def sign_in(user: User, *, password: str = PASSWORD, **more: Any) -> tuple[Client, Any]:
    client = Client(**more)
    return client, client.post("/accounts/login/", {"login": user.username, "password": password})


def prove(client: Client, password: str = PASSWORD, target: str = "/") -> Any:
    return client.post("/accounts/reauthenticate/", {"password": password, "next": target})


def with_app(user: User) -> tuple[Client, str, list[str]]:
    """Somebody with an authenticator app: their browser, the app's secret and the recovery codes."""
    client, _ = sign_in(user)
    prove(client)
    page = client.get("/accounts/totp/add/").content.decode()
    secret = re.search(r'id="authenticator_secret" value="([A-Z2-7=]+)"', page)
    assert secret
    answer = client.post("/accounts/totp/add/", {"code": code_of(secret[1])})
    assert answer.url == "/accounts/recovery-codes/", "recovery codes come with the first second factor"
    return client, secret[1], codes_on(client.post(answer.url))


def codes_on(page: Any) -> list[str]:
    """The recovery codes that a page shows."""
    return re.findall(r"^\s*(?:<pre[^>]*>)?(\d{8})$", page.content.decode(), re.MULTILINE)


def events(*names: str) -> list[tuple[str, str, str]]:
    rows = Entry.objects.filter(event__in=names).order_by("uid")
    return list(rows.values_list("event", "user_name", "data"))


def inside(client: Client) -> bool:
    return bool(client.get("/accounts/security/").status_code == 200)


def test_an_app_is_asked_for_after_the_password_and_its_code_is_good_once(cast: Cast, step: Any) -> None:
    _, secret, codes = with_app(cast.anna)
    assert len(set(codes)) == 10
    assert secret not in str(list(Authenticator.objects.values_list("data", flat=True))), "it is sealed"
    step()
    client, answer = sign_in(cast.anna)
    assert answer.url == "/accounts/two-factor/"
    assert not inside(client), "a password alone signs nobody in"
    code = code_of(secret)
    assert client.post("/accounts/two-factor/", {"code": "000000" if code != "000000" else "000001"}).status_code == 200
    assert not inside(client)
    assert client.post("/accounts/two-factor/", {"code": code}).status_code == 302
    assert inside(client)
    cache.clear()  # as in another process, which knows nothing of the first
    other, _ = sign_in(cast.anna)
    assert other.post("/accounts/two-factor/", {"code": code}).status_code == 200
    assert not inside(other)
    assert [one[2] for one in events("user.signed_in")][-1] == '{"with":"password and totp"}'
    assert '{"for_user":"anna","with":"totp"}' in [one[2] for one in events("user.sign_in_failed")]
    added = [one[2] for one in events("authenticator.added")]
    assert [('"totp"' in one, '"recovery_codes"' in one) for one in added] == [(True, False), (False, True)]


def test_a_recovery_code_is_good_once_and_all_are_shown_once(cast: Cast, step: Any) -> None:
    mine, _, codes = with_app(cast.anna)
    for page in (mine.get("/accounts/recovery-codes/"), mine.post("/accounts/recovery-codes/")):
        assert page.status_code == 200
        assert not any(code in page.content.decode() for code in codes)
    client, _ = sign_in(cast.anna)
    client.post("/accounts/two-factor/", {"code": codes[0]})
    assert inside(client)
    again, _ = sign_in(cast.anna)
    assert again.post("/accounts/two-factor/", {"code": codes[0]}).status_code == 200
    assert not inside(again)


def test_a_sign_in_link_does_not_get_round_the_second_factor(cast: Cast, step: Any) -> None:
    _, secret, _ = with_app(cast.anna)
    step()
    client = Client()
    link = issue_sign_in_link(user=cast.anna, ttl=60, operator=OPERATOR)
    before = len(events("user.signed_in"))
    assert client.post(f"/sign-in/{link}/", {"next": "/requests/"}).url == "/accounts/two-factor/"
    assert not inside(client)
    assert len(events("user.signed_in")) == before
    assert events("user.proved")[-1] == ("user.proved", "anna", '{"with":"sign_in_link"}')
    assert client.post("/accounts/two-factor/", {"code": code_of(secret)}).url == "/requests/"
    assert events("user.signed_in")[-1][2] == '{"with":"sign_in_link and totp"}'


@pytest.mark.parametrize(
    "path",
    ["totp/add/", "totp/remove/", "passkeys/add/", "passkeys/1/remove/", "recovery-codes/", "recovery-codes/new/"],
)
def test_an_open_browser_alone_changes_no_second_factor(cast: Cast, browser: Any, step: Any, path: str) -> None:
    with_app(cast.anna)
    before = list(Authenticator.objects.values())
    client = browser(cast.anna)
    for answer in (client.get(f"/accounts/{path}"), client.post(f"/accounts/{path}", {"code": "1"})):
        assert (answer.status_code, answer.url.partition("?")[0]) == (302, "/accounts/reauthenticate/code/")
    assert list(Authenticator.objects.values()) == before
    # The form is not kept and sent after the proof.
    assert prove(client, target=f"/accounts/{path}").url == f"/accounts/{path}"
    assert list(Authenticator.objects.values()) == before


def test_who_has_nothing_to_prove_adds_a_factor_only_right_after_the_sign_in(cast: Cast, step: Any) -> None:
    cast.anna.set_unusable_password()
    cast.anna.save()
    client = Client()
    client.post(f"/sign-in/{issue_sign_in_link(user=cast.anna, ttl=60, operator=OPERATOR)}/")
    assert client.get("/accounts/totp/add/").status_code == 200
    for _ in range(11):
        step()  # five minutes and a half
    assert client.get("/accounts/totp/add/").url == "/accounts/security/"
    assert not Authenticator.objects.exists()


def test_step_up_is_for_people_without_a_password_too(cast: Cast, step: Any) -> None:
    _, secret, _ = with_app(cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(password="!none")
    client = Client()
    client.post(f"/sign-in/{issue_sign_in_link(user=cast.anna, ttl=600, operator=OPERATOR)}/")
    step()
    client.post("/accounts/two-factor/", {"code": code_of(secret)})
    cast.change_policy(step_up=True)
    asked = cast.submit()
    page = f"/requests/{asked.pk}/"
    approval = {"digest": asked.digest}
    assert "Prove who you are, to approve" in client.get(page).content.decode()
    assert client.post(f"{page}approve/", approval).status_code == 403, "to sign in is not to prove it again"
    assert client.get(f"/accounts/reauthenticate/?next={page}").url.startswith("/accounts/reauthenticate/code/?next=")
    step()
    answer = client.post("/accounts/reauthenticate/code/", {"code": code_of(secret), "next": page})
    assert answer.url == page
    assert events("user.proved")[-1] == ("user.proved", "anna", '{"with":"totp"}')
    assert not Decision.objects.exists(), "to prove who one is decides nothing"
    assert client.post(f"{page}approve/", approval).status_code == 302
    assert Decision.objects.get().verdict == "approve"


def test_a_way_that_does_not_count_proves_nothing(cast: Cast, settings: Any, step: Any) -> None:
    client, _, _ = with_app(cast.anna)
    for _ in range(11):
        step()  # the proof of before is old
    settings.STEP_UP_WITH = ["totp", "webauthn"]
    cast.change_policy(step_up=True)
    asked = cast.submit()
    assert client.get("/accounts/reauthenticate/").url.startswith("/accounts/reauthenticate/code/")
    assert prove(client).status_code == 302, "the page of passwords is not there for them"
    assert client.post(f"/requests/{asked.pk}/approve/", {"digest": asked.digest}).status_code == 403
    assert not Decision.objects.exists()


def test_who_has_nothing_that_counts_is_told_what_to_do(cast: Cast, browser: Any) -> None:
    cast.change_policy(step_up=True)
    asked = cast.submit()
    User.objects.filter(pk=cast.anna.pk).update(password="!none")
    client = browser(User.objects.get(pk=cast.anna.pk))
    assert "Add a passkey or an authenticator app" in client.get(f"/requests/{asked.pk}/").content.decode()
    assert client.post(f"/requests/{asked.pk}/approve/", {"digest": asked.digest}).status_code == 403


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_no_page_of_ours_leads_elsewhere(cast: Cast, step: Any, target: str) -> None:
    _, secret, _ = with_app(cast.anna)
    step()
    client = Client()
    client.post("/accounts/login/", {"login": "anna", "password": PASSWORD, "next": target})
    assert client.post("/accounts/two-factor/", {"code": code_of(secret), "next": target}).url == "/"
    assert prove(client, target=target).url == "/"
    step()
    assert client.post("/accounts/reauthenticate/code/", {"code": code_of(secret), "next": target}).url == "/"
    assert client.post("/accounts/logout/", {"next": target}).url == "/accounts/login/"


@pytest.mark.parametrize("answer", ["", "{}", "[]", "null", '{"id": 1}', '{"response": {"userHandle": "eA"}}', '"x"'])
def test_nonsense_in_place_of_a_passkey_signs_nobody_in(cast: Cast, answer: str) -> None:
    client = Client()
    assert client.get("/accounts/passkeys/sign-in/", headers={"accept": "application/json"}).status_code == 200
    response = client.post("/accounts/passkeys/sign-in/", {"credential": answer})
    assert response.url == "/accounts/login/"
    assert not inside(client)


def test_the_list_of_sessions_ends_one_and_only_ones_own(cast: Cast) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    mine, _ = sign_in(cast.anna, headers={"user-agent": agent})
    elsewhere, _ = sign_in(cast.anna, headers={"user-agent": "<b>\u202enothing known</b>"})
    others, _ = sign_in(cast.bert)
    assert all(map(inside, (mine, elsewhere, others)))
    page = mine.get("/accounts/security/").content.decode()
    assert "Firefox on Linux" in page
    assert page.count("This browser") == 1
    assert "<b>" not in page
    assert "\u202e" not in page
    rows = {row.user_id: row.pk for row in UserSession.objects.exclude(session_key=mine.session.session_key)}
    assert mine.post("/accounts/sessions/end/", {"which": rows[cast.bert.pk]}).status_code == 404
    for nonsense in ("", "x", "-1", "٣"):
        assert mine.post("/accounts/sessions/end/", {"which": nonsense}).status_code == 404
    assert inside(others)
    assert mine.post("/accounts/sessions/end/", {"which": rows[cast.anna.pk]}).status_code == 302
    assert [inside(one) for one in (mine, elsewhere, others)] == [True, False, True]
    assert len(events("session.ended")) == 1


@pytest.mark.parametrize(("which", "stays"), [("others", True), ("all", False)])
def test_sign_out_everywhere_ends_browsers_that_nothing_tells_of(cast: Cast, which: str, stays: bool) -> None:
    (mine, _), (elsewhere, _), (others, _) = sign_in(cast.anna), sign_in(cast.anna), sign_in(cast.bert)
    UserSession.objects.filter(session_key=elsewhere.session.session_key).delete()
    link = issue_sign_in_link(user=cast.anna, ttl=60, operator=OPERATOR)
    key = str(elsewhere.session.session_key)
    assert person_of_cookie(key) == cast.anna
    mine.post("/accounts/sessions/end/", {"which": which})
    assert person_of_cookie(key) is None, "its live updates end, too"
    assert [inside(one) for one in (mine, elsewhere, others)] == [stays, False, True]
    assert Client().post(f"/sign-in/{link}/").status_code == 404
    assert len(events("sessions.ended")) == 1


def test_whoever_is_deactivated_is_not_signed_in_when_they_are_active_again(cast: Cast) -> None:
    client, _ = sign_in(cast.anna)
    cast.anna.is_active = False
    cast.anna.save()
    assert not inside(client)
    cast.anna.is_active = True
    cast.anna.save()
    assert not inside(client)
    assert [one[2] for one in events("sessions.ended")] == ['{"but_here":false,"for_user":"anna","why":"deactivated"}']


def test_a_reset_takes_every_factor_and_signs_out(cast: Cast, step: Any) -> None:
    client, _, _ = with_app(cast.anna)
    assert reset_factors(user=cast.anna, operator=OPERATOR) == 2
    assert not Authenticator.objects.exists()
    assert not inside(client)
    assert len(events("authenticator.reset")) == 1
    assert sign_in(cast.anna)[1].url == "/"


def test_failed_sign_ins_and_sign_outs_are_on_record_without_what_was_typed(cast: Cast) -> None:
    sign_in(cast.anna, password="not it, sorry")
    Client().post("/accounts/login/", {"login": "my secret passphrase", "password": "x"})
    client, _ = sign_in(cast.anna)
    client.post("/accounts/logout/")
    failed = events("user.sign_in_failed")
    assert [one[2] for one in failed] == ['{"for_user":"anna","with":"password"}', '{"for_user":"","with":"password"}']
    assert "passphrase" not in str(list(Entry.objects.values()))
    assert [one[1] for one in events("user.signed_out")] == ["anna"]
    assert not UserSession.objects.filter(user=cast.anna).exists()


def test_attempts_are_limited_and_a_success_does_not_clear_them(cast: Cast) -> None:
    for _ in range(5):
        sign_in(cast.anna, password="not it, sorry")
    client, answer = sign_in(cast.anna)
    assert answer.status_code == 200
    assert not inside(client)
    assert len(events("user.sign_in_failed")) == 5


@pytest.mark.parametrize("of", ["admins", "all"])
def test_a_second_factor_is_set_up_before_anything_else(cast: Cast, settings: Any, step: Any, of: str) -> None:
    settings.MFA_REQUIRED = of
    client, _ = sign_in(cast.admin)
    assert client.get("/").url == "/accounts/security/"
    refused = client.get("/api/v1/requests", headers={"accept": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (403, "second_factor.missing")
    asked = cast.submit()
    assert client.post(f"/requests/{asked.pk}/approve/", {"digest": asked.digest}).url == "/accounts/security/"
    assert not Decision.objects.exists()
    assert "A second factor is needed here" in client.get("/accounts/security/").content.decode()
    with_app(cast.admin)
    assert client.get("/").status_code == 200
    others, _ = sign_in(cast.bert)
    assert others.get("/").status_code == (200 if of == "admins" else 302)


def test_nobody_has_a_password_where_passwords_are_off(cast: Cast, settings: Any) -> None:
    settings.LOCAL_PASSWORDS = False
    client, answer = sign_in(cast.anna)
    assert answer.status_code == 200
    assert not inside(client)
    assert 'type="password"' not in Client().get("/accounts/login/").content.decode()


def test_factors_are_sealed_anew_with_a_new_key(cast: Cast, step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_app(cast.anna)
    keys = KeyRing.from_text(f"{generate_key('newest')},{ring_text()}")
    assert reseal_factors(keys, operator=OPERATOR) == Resealed(2, 0, ())
    assert reseal_factors(keys, operator=OPERATOR) == Resealed(0, 2, ())
    assert len(sealed_with("newest")) == 2


def test_last_seen_is_written_once_a_minute_and_not_for_what_a_page_fetches(
    cast: Cast, django_assert_num_queries: Any
) -> None:
    client, _ = sign_in(cast.anna)
    cache.clear()
    with django_assert_num_queries(2):  # the session and its person, nothing else
        client.get("/accounts/sessions/end/", headers={"hx-request": "true"})
    with django_assert_num_queries(3):
        client.get("/accounts/sessions/end/")
    with django_assert_num_queries(2):
        client.get("/accounts/sessions/end/")


def test_an_admin_signs_people_out_and_only_a_superuser_resets_their_factors(
    cast: Cast, browser: Any, step: Any
) -> None:
    client, _, _ = with_app(cast.anna)
    cast.bert.is_staff = True
    cast.bert.save()
    cast.bert.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    page, people = "/admin/jit_identity/user/", {"_selected_action": [str(cast.anna.pk), str(cast.admin.pk)]}
    boss, _ = sign_in(cast.admin)
    staff = browser(cast.bert)
    staff.post(page, {"action": "reset_second_factor", **people})
    assert Authenticator.objects.count() == 2
    staff.post(page, {"action": "sign_out_everywhere", **people})
    assert [inside(one) for one in (client, boss)] == [False, True], "a superuser is not theirs to sign out"
    boss.post(page, {"action": "reset_second_factor", "_selected_action": [str(cast.anna.pk)]})
    assert not Authenticator.objects.exists()
    assert [one[1] for one in events("authenticator.reset")] == ["admin"]


def test_a_password_in_a_terminal_is_not_enough_for_who_has_a_second_factor(cast: Cast, step: Any) -> None:
    _authenticate("bert", PASSWORD)
    with_app(cast.anna)
    with pytest.raises(Forbidden) as caught:
        _authenticate("anna", PASSWORD)
    assert caught.value.code == "sign_in.second_factor"


@pytest.mark.parametrize("meanwhile", ["password", "sign out everywhere", "deactivated"])
def test_a_sign_in_that_waits_for_its_second_step_ends_with_what_it_was_begun_with(
    cast: Cast, step: Any, meanwhile: str
) -> None:
    _, secret, _ = with_app(cast.anna)
    step()
    client, answer = sign_in(cast.anna)
    assert answer.url == "/accounts/two-factor/"
    if meanwhile == "password":
        cast.anna.set_password("another one that is long")
        cast.anna.save()
    elif meanwhile == "deactivated":
        cast.anna.is_active = False
        cast.anna.save()
    else:
        end_sessions(user=cast.anna, actor=OPERATOR, why="a test")
    step()
    before = events("user.signed_in")
    client.post("/accounts/two-factor/", {"code": code_of(secret)})
    User.objects.filter(pk=cast.anna.pk).update(is_active=True)
    assert not inside(client)
    assert events("user.signed_in") == before
