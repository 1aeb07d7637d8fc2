"""The page of locks: what the service says is what the page does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from jitaccess.policy.locks import lock
from jitaccess.policy.models import Lock
from tests.cast import OPERATOR, Cast

Browser = Callable[..., Client]


def make(client: Client, **given: str) -> object:
    form = {"kind": "agent", "target": "demo-agent", "seconds": "", "reason": "It misbehaves"} | given
    return client.post("/locks/new/", form)


def test_an_admin_locks_something_and_lifts_it(cast: Cast, browser: Browser):
    client = browser(cast.admin)
    assert make(client, kind="server", target="git", seconds="3600").status_code == 302
    made = Lock.objects.get()
    assert (made.kind, made.target, made.created_by_name) == ("server", cast.server.pk, "admin")
    assert not cast.verdict("git_log").allowed
    assert "It misbehaves" in client.get("/locks/").content.decode()
    assert "Locked" in client.get("/servers/").content.decode()
    assert client.post(f"/locks/{made.pk}/lift/").status_code == 302
    assert cast.verdict("git_log").allowed
    assert "Nothing is locked" in client.get("/locks/").content.decode()
    assert "lifted" in client.get("/locks/?show=over").content.decode()


def test_an_owner_locks_their_agent_and_nothing_else(cast: Cast, browser: Browser):
    client = browser(cast.olga)
    page = client.get("/locks/").content.decode()
    assert 'value="agent"' in page
    assert 'value="everything"' not in page
    assert make(client, kind="everything", target="").status_code == 403
    assert make(client, kind="server", target="git").status_code == 403
    assert make(client, target="no-such").status_code == 403
    assert not Lock.objects.exists()
    assert make(client).status_code == 302
    assert client.post(f"/locks/{Lock.objects.get().pk}/lift/").status_code == 302


def test_an_owner_does_not_lift_what_somebody_else_made(cast: Cast, browser: Browser):
    made = lock(kind="agent", target=cast.agent.pk, reason="An investigation", operator=OPERATOR)
    client = browser(cast.olga)
    assert "Lift" not in client.get("/locks/").content.decode()
    assert client.post(f"/locks/{made.pk}/lift/").status_code == 403
    assert Lock.objects.get().lifted_at is None


def test_others_see_no_lock_make_none_and_lift_none(cast: Cast, browser: Browser):
    made = lock(kind="agent", target=cast.agent.pk, reason="An investigation", operator=OPERATOR)
    client = browser(cast.carl)
    page = client.get("/locks/").content.decode()
    assert "An investigation" not in page
    assert "Lock something" not in page
    assert make(client).status_code == 403
    assert client.post(f"/locks/{made.pk}/lift/").status_code == 404
    assert Lock.objects.filter(lifted_at=None).count() == 1


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"reason": " "}, 400),
        ({"kind": "x"}, 400),
        ({"seconds": "5"}, 400),
        ({"target": "no\0t"}, 404),
        ({"kind": "everything"}, 400),
    ],
)
def test_a_mistake_is_told_on_the_page_and_what_was_typed_is_kept(
    given: dict[str, str], status: int, cast: Cast, browser: Browser
):
    response = make(browser(cast.admin), **given)
    assert response.status_code == status
    assert b'role="alert"' in response.content
    assert not Lock.objects.exists()


def test_looking_locks_nothing_and_neither_does_a_forged_form(cast: Cast, browser: Browser):
    assert browser(cast.admin).get("/locks/new/").status_code == 405
    assert make(browser(cast.admin, csrf=True)).status_code == 403
    assert 'href="/accounts/login/?next=/locks/"' in make(Client()).content.decode()
    assert browser(cast.admin).get("/locks/?before=x").status_code == 400
    assert not Lock.objects.exists()


def test_a_reason_is_text(cast: Cast, browser: Browser):
    make(browser(cast.admin), reason="<script>alert(1)</script> \u202eevil")
    page = browser(cast.admin).get("/locks/").content.decode()
    assert "<script>alert" not in page
    assert "\u202e" not in page
