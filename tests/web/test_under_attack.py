"""Sign-in and second factors with somebody who wishes to get in, or to keep others out."""

from __future__ import annotations

import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.identity.adapters import BEGUN
from jitaccess.identity.attempts import COOKIE
from jitaccess.identity.factors import reset_factors
from jitaccess.identity.models import User
from jitaccess.identity.services import issue_sign_in_link
from tests.cast import Cast
from tests.web.test_second_factors import (
    OPERATOR,
    PASSWORD,
    code_of,
    codes_on,
    events,
    inside,
    prove,
    sign_in,
    with_app,
)

FAR = {"REMOTE_ADDR": "203.0.113.9"}


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    cache.clear()


def guess(user: User, times: int, **more: Any) -> None:
    for number in range(times):
        sign_in(user, password=f"guess {number}", **more)


def test_guesses_of_strangers_keep_nobody_from_step_up_from_a_known_browser_or_from_a_link(cast: Cast) -> None:
    working, _ = sign_in(cast.anna)
    known, _ = sign_in(cast.anna)
    known.post("/accounts/logout/")
    guess(cast.anna, 12)  # from the same address, too
    stranger, _ = sign_in(cast.anna)
    assert not inside(stranger), "guesses of strangers are limited, right or not"
    assert prove(working).url == "/"
    assert known.post("/accounts/login/", {"login": "anna", "password": PASSWORD}).url == "/"
    assert inside(known)
    link = issue_sign_in_link(user=cast.anna, ttl=60, operator=OPERATOR)
    other = Client()
    other.post(f"/sign-in/{link}/")
    assert inside(other)


def test_a_known_browser_and_a_session_may_guess_no_more_often_than_strangers(cast: Cast) -> None:
    working, _ = sign_in(cast.anna)
    for number in range(5):
        assert prove(working, password=f"guess {number}").status_code == 200
    assert prove(working).status_code == 200, "five were wrong"
    # Another key for the same session is no new session.
    working.post("/accounts/sessions/end/", {"which": "others"})
    assert inside(working)
    assert prove(working).status_code == 200
    known, _ = sign_in(cast.anna)
    known.post("/accounts/logout/")
    for number in range(5):
        known.post("/accounts/login/", {"login": "anna", "password": f"guess {number}"})
    known.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert not inside(known)
    assert len(events("user.sign_in_failed")) == 10


def test_a_stolen_session_gets_no_fresh_counter_for_the_sign_in(cast: Cast) -> None:
    stolen, _ = sign_in(cast.anna)
    outside = Client(**FAR)
    outside.cookies[COOKIE] = stolen.cookies[COOKIE].value
    for number in range(7):
        outside.post("/accounts/login/", {"login": "anna", "password": f"guess {number}"})
        stolen.post("/accounts/sessions/end/", {"which": "others"})
        outside.cookies[COOKIE] = stolen.cookies[COOKIE].value
    outside.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert not inside(outside)
    # Nor does one without the cookie come by it.
    bare, _ = sign_in(cast.bert)
    del bare.cookies[COOKIE]
    bare.post("/accounts/sessions/end/", {"which": "others"})
    assert COOKIE not in bare.cookies


@pytest.mark.parametrize("meanwhile", ["forged", "of another", "password", "signed out everywhere"])
def test_a_browser_is_known_for_one_person_and_while_nothing_changed(cast: Cast, meanwhile: str) -> None:
    known, _ = sign_in(cast.bert if meanwhile == "of another" else cast.anna)
    if meanwhile == "signed out everywhere":
        known.post("/accounts/sessions/end/", {"which": "all"})
    known.post("/accounts/logout/")
    if meanwhile == "password":
        cast.anna.set_password(PASSWORD)
        cast.anna.save()
    if meanwhile == "forged":
        known.cookies[COOKIE] = known.cookies[COOKIE].value[:-3] + "abc"
    guess(cast.anna, 5, **FAR)
    known.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert not inside(known)


def test_who_changes_their_password_here_stays_known_here(cast: Cast) -> None:
    known, _ = sign_in(cast.anna)
    new = "an entirely different one"
    form = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert known.post("/accounts/password/change/", form).status_code == 302
    known.post("/accounts/logout/")
    guess(cast.anna, 5, **FAR)
    known.post("/accounts/login/", {"login": "anna", "password": new})
    assert inside(known)


def test_the_password_of_now_is_guessed_in_a_session_no_more_often_than_elsewhere(cast: Cast) -> None:
    taken, _ = sign_in(cast.anna)
    own, _ = sign_in(cast.anna)
    new = "quiet-harbour-lantern"
    failed = Entry.objects.filter(event="user.sign_in_failed").count()
    for number in range(8):
        guessed = {"oldpassword": f"guess {number}", "password1": new, "password2": new}
        assert taken.post("/accounts/password/change/", guessed).status_code == 200
    right = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert taken.post("/accounts/password/change/", right).status_code == 200, "as often as it may, it has guessed"
    assert Entry.objects.filter(event="user.sign_in_failed").count() == failed + 5
    assert own.post("/accounts/password/change/", right).status_code == 302, "another session is not kept from it"


def test_another_spelling_of_a_name_is_no_other_counter(cast: Cast) -> None:
    for spelling in ("anna", "ANNA", "Anna", "aNNa", "annA"):
        Client(**FAR).post("/accounts/login/", {"login": spelling, "password": "a guess"})
    client = Client()
    client.post("/accounts/login/", {"login": "AnnA", "password": PASSWORD})
    assert not inside(client)


def test_whoever_knows_the_password_keeps_nobody_from_step_up_by_a_code(cast: Cast, step: Any) -> None:
    working, secret, _ = with_app(cast.anna)
    step()
    thief, answer = sign_in(cast.anna)
    assert answer.url == "/accounts/two-factor/"
    for _ in range(6):
        thief.post("/accounts/two-factor/", {"code": "12"})
    thief.post("/accounts/two-factor/", {"code": code_of(secret)})
    assert not inside(thief), "codes cannot be guessed without end"
    answer = working.post("/accounts/reauthenticate/code/", {"code": code_of(secret), "next": "/requests/"})
    assert answer.url == "/requests/"


def test_a_password_alone_takes_no_second_factor_away(cast: Cast, step: Any) -> None:
    _, secret, codes = with_app(cast.anna)
    step()
    client, _ = sign_in(cast.anna)
    client.post("/accounts/two-factor/", {"code": code_of(secret)})
    prove(client)
    assert events("user.proved")[-1][2] == '{"with":"password"}'
    held = list(Authenticator.objects.values())
    for path in ("totp/remove/", "passkeys/add/", "recovery-codes/new/", "recovery-codes/"):
        answer = client.post(f"/accounts/{path}")
        assert answer.url.startswith("/accounts/reauthenticate/code/"), path
    assert list(Authenticator.objects.values()) == held
    client.post("/accounts/reauthenticate/code/", {"code": codes[0], "next": "/accounts/totp/remove/"})
    assert client.post("/accounts/totp/remove/").url == "/accounts/security/"
    assert not Authenticator.objects.exists()


def test_a_second_factor_takes_itself_away_where_only_passwords_count_for_approvals(
    cast: Cast,
    settings: Any,
    step: Any,
) -> None:
    settings.STEP_UP_WITH = ["password"]
    client, secret, _ = with_app(cast.anna)
    for _ in range(11):
        step()
    answer = client.get("/accounts/totp/remove/")
    assert answer.url == "/accounts/reauthenticate/code/?next=%2Faccounts%2Ftotp%2Fremove%2F"
    assert client.get(answer.url).status_code == 200
    client.post(answer.url, {"code": code_of(secret)})
    client.post("/accounts/totp/remove/")
    assert not Authenticator.objects.exists()


def test_a_superuser_does_not_take_their_own_away_in_the_admin(cast: Cast, step: Any) -> None:
    client, _, _ = with_app(cast.admin)
    form = {"action": "reset_second_factor", "_selected_action": [str(cast.admin.pk)]}
    answer = client.post("/admin/jit_identity/user/", form, follow=True)
    assert "Your own are removed on the page" in answer.content.decode()
    assert Authenticator.objects.count() == 2


def test_a_sign_in_whose_second_factor_was_reset_is_over_and_goes_in_no_circles(
    cast: Cast,
    step: Any,
) -> None:
    with_app(cast.anna)
    client, answer = sign_in(cast.anna)
    assert answer.url == "/accounts/two-factor/"
    reset_factors(user=cast.anna, operator=OPERATOR)
    followed = client.get("/accounts/login/", follow=True)
    assert (followed.status_code, followed.redirect_chain[-1][0]) == (200, "/accounts/login/")
    assert "removed meanwhile" in followed.content.decode()
    assert not inside(client)
    client.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert inside(client), "and another one can begin"


def test_the_code_that_adds_an_app_is_used_up(cast: Cast, step: Any) -> None:
    _, secret, _ = with_app(cast.anna)
    code = code_of(secret)
    cache.clear()  # as in another process
    client, _ = sign_in(cast.anna)
    assert client.post("/accounts/two-factor/", {"code": code}).status_code == 200
    assert not inside(client)
    step()
    client.post("/accounts/two-factor/", {"code": code_of(secret)})
    assert inside(client)


def test_recovery_codes_are_not_used_up_by_what_browsers_fetch_by_themselves(
    cast: Cast,
    step: Any,
) -> None:
    client, _, codes = with_app(cast.anna)
    client.post("/accounts/recovery-codes/new/")
    for _ in range(2):
        client.head("/accounts/recovery-codes/")
        page = client.get("/accounts/recovery-codes/", headers={"sec-purpose": "prefetch"})
        assert "Show the codes, once" in page.content.decode()
        assert codes_on(page) == []
    shown = client.post("/accounts/recovery-codes/")
    assert "no-store" in shown["Cache-Control"]
    assert len(set(codes_on(shown)) - set(codes)) == 10
    assert codes_on(client.post("/accounts/recovery-codes/")) == []


def test_a_session_that_does_not_say_how_its_sign_in_was_begun_is_refused(cast: Cast, step: Any) -> None:
    _, secret, _ = with_app(cast.anna)
    step()
    client, _ = sign_in(cast.anna)
    session = client.session
    del session[BEGUN]
    session.save()
    client.post("/accounts/two-factor/", {"code": code_of(secret)})
    assert not inside(client)


def test_a_planted_session_does_not_stand_at_the_second_step(cast: Cast, step: Any) -> None:
    with_app(cast.anna)
    planted = Client()
    planted.get("/accounts/login/")
    session = planted.session
    session["planted"] = time.time()
    session.save()
    victim = Client()
    victim.cookies["sessionid"] = str(session.session_key)
    answer = victim.post("/accounts/login/", {"login": "anna", "password": PASSWORD})
    assert answer.url == "/accounts/two-factor/"
    planted.cookies["sessionid"] = str(session.session_key)
    assert planted.get("/accounts/two-factor/").url == "/accounts/login/"
    assert victim.get("/accounts/two-factor/").status_code == 200
