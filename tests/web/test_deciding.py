from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.policy.models import RoleBinding
from requests_app.models import AccessRequest, Decision, Grant
from tests.cast import Cast


def page(request: AccessRequest) -> str:
    return reverse("web:request", args=[request.pk])


def url(request: AccessRequest, verb: str) -> str:
    return reverse(f"web:{verb}", args=[request.pk])


def untouched(request: AccessRequest) -> bool:
    request.refresh_from_db()
    granted = Grant.objects.exists() or RoleBinding.objects.filter(origin="grant").exists()
    nothing = not Decision.objects.exists() and not granted
    return request.pending and nothing and not Entry.objects.filter(event="decision.recorded").exists()


def test_an_approver_approves_and_sees_the_access_begin(cast: Cast, browser) -> None:
    asked = cast.submit()
    client = browser(cast.anna)
    shown = client.get(page(asked)).content.decode()
    digest = re.search(r'name="digest" value="([^"]+)"', shown)
    assert digest
    response = client.post(url(asked, "approve"), {"digest": digest[1], "reason": "Fine."})
    assert response.status_code == 302
    assert response.url == page(asked)
    grant = Grant.objects.get(request=asked)
    assert Decision.objects.get(request=asked).reason == "Fine."
    after = client.get(page(asked)).content.decode()
    assert re.search(r">9 min</time> left", after)
    assert reverse("web:revoke", args=[grant.pk]) in after
    assert url(asked, "approve") not in after


def test_the_owner_of_the_agent_cannot_approve(cast: Cast, browser) -> None:
    asked = cast.submit()
    client = browser(cast.olga)
    shown = client.get(page(asked)).content.decode()
    assert "You own the agent that asks" in shown
    assert url(asked, "approve") not in shown
    response = client.post(url(asked, "approve"), {"digest": asked.digest})
    assert response.status_code == 403
    assert "you own the agent that asks" in response.content.decode()
    assert untouched(asked)


def test_somebody_who_may_see_but_is_no_approver_is_told_so(cast: Cast, browser) -> None:
    cast.team.members.add(cast.carl)
    asked = cast.submit()
    client = browser(cast.carl)
    assert "you are not one of its approvers" in client.get(page(asked)).content.decode()
    for verb in ("approve", "deny"):
        assert client.post(url(asked, verb), {"digest": asked.digest}).status_code == 403
    assert untouched(asked)


def test_a_second_approver_sees_who_was_first_and_when(cast: Cast, browser) -> None:
    asked = cast.submit()
    cast.approve(asked, cast.anna)
    asked.refresh_from_db()
    for verb in ("approve", "deny"):
        response = browser(cast.bert).post(url(asked, verb), {"digest": asked.digest})
        assert response.status_code == 409
        assert f"Already approved by anna at {asked.closed_at:%H:%M} UTC." in response.content.decode()
    assert Decision.objects.get().user == cast.anna
    assert Grant.objects.count() == 1


def test_approving_twice_while_others_are_needed_is_a_conflict(cast: Cast, browser) -> None:
    cast.change_policy(quorum=2)
    asked = cast.submit()
    client = browser(cast.anna)
    assert "your yes counts" in client.get(page(asked)).content.decode()
    client.post(url(asked, "approve"), {"digest": asked.digest})
    shown = client.get(page(asked)).content.decode()
    assert "You approved this at" in shown
    assert "1 of 2" in shown
    assert client.post(url(asked, "approve"), {"digest": asked.digest}).status_code == 409
    assert not Grant.objects.exists()
    assert Decision.objects.count() == 1


@pytest.mark.parametrize("digest", ["", "sha256:" + "0" * 64])
def test_a_wrong_digest_approves_nothing(cast: Cast, browser, digest: str) -> None:
    asked = cast.submit()
    response = browser(cast.anna).post(url(asked, "approve"), {"digest": digest})
    assert response.status_code == 409
    assert "not what is on record" in response.content.decode()
    assert untouched(asked)


def test_a_reason_that_is_too_long_is_refused_as_malformed(cast: Cast, browser) -> None:
    asked = cast.submit()
    response = browser(cast.anna).post(url(asked, "deny"), {"digest": asked.digest, "reason": "x" * 2001})
    assert response.status_code == 400
    assert untouched(asked)


@pytest.mark.parametrize("verb", ["approve", "deny"])
@pytest.mark.parametrize("method", ["get", "head", "put", "delete"])
def test_only_post_decides(cast: Cast, browser, verb: str, method: str) -> None:
    asked = cast.submit()
    response = getattr(browser(cast.anna), method)(url(asked, verb) + f"?digest={asked.digest}")
    assert response.status_code == 405
    assert untouched(asked)


def test_get_revokes_nothing(cast: Cast, browser) -> None:
    grant = cast.approve(cast.submit(), cast.anna).grant
    assert browser(cast.anna).get(reverse("web:revoke", args=[grant.pk])).status_code == 405
    grant.refresh_from_db()
    assert grant.ended_at is None


def test_a_form_without_its_csrf_token_decides_nothing(cast: Cast, browser) -> None:
    asked = cast.submit()
    client: Client = browser(cast.anna, csrf=True)
    refused = client.post(url(asked, "approve"), {"digest": asked.digest})
    assert refused.status_code == 403
    assert "gone stale" in refused.content.decode()
    assert untouched(asked)
    client.get(page(asked))
    token = client.cookies["csrftoken"].value
    accepted = client.post(url(asked, "approve"), {"digest": asked.digest, "csrfmiddlewaretoken": token})
    assert accepted.status_code == 302
    assert Grant.objects.count() == 1


def test_nobody_decides_without_signing_in(cast: Cast) -> None:
    asked = cast.submit()
    response = Client().post(url(asked, "approve"), {"digest": asked.digest})
    assert response.status_code == 302
    assert response.url.startswith("/accounts/login/")
    assert untouched(asked)


def test_a_foreign_request_answers_like_one_that_does_not_exist(cast: Cast, browser) -> None:
    asked = cast.submit()
    client = browser(cast.carl)
    missing = "00000000-0000-7000-8000-000000000000"
    answers = [client.get(reverse("web:request", args=[key])) for key in (asked.pk, missing)]
    answers += [
        client.post(reverse(f"web:{verb}", args=[asked.pk]), {"digest": asked.digest}) for verb in ("approve", "deny")
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    bodies = {re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", answer.content.decode()) for answer in answers}
    assert len(bodies) == 1
    assert "demo-agent" not in bodies.pop()
    assert untouched(asked)


def test_the_owner_revokes_and_a_second_revoke_is_a_conflict(cast: Cast, browser) -> None:
    asked = cast.submit()
    grant = cast.approve(asked, cast.anna).grant
    revoke = reverse("web:revoke", args=[grant.pk])
    assert browser(cast.carl).post(revoke).status_code == 404
    grant.refresh_from_db()
    assert grant.ended_at is None
    assert browser(cast.olga).post(revoke, {"reason": "Enough."}).status_code == 302
    grant.refresh_from_db()
    assert (grant.end_reason, grant.ended_by_name, grant.end_note) == ("revoked", "olga", "Enough.")
    late = browser(cast.bert).post(revoke)
    assert late.status_code == 409
    assert f"was revoked by olga at {grant.ended_at:%H:%M} UTC" in late.content.decode()


def test_a_team_mate_of_the_agent_sees_a_live_grant_but_may_not_revoke_it(cast: Cast, browser) -> None:
    cast.team.members.add(cast.carl)
    asked = cast.submit()
    grant = cast.approve(asked, cast.anna).grant
    client = browser(cast.carl)
    assert "Revoke access" not in client.get(page(asked)).content.decode()
    assert client.post(reverse("web:revoke", args=[grant.pk])).status_code == 403
    grant.refresh_from_db()
    assert grant.ended_at is None


def test_the_approve_button_is_never_focused_by_itself(cast: Cast, browser) -> None:
    assert "autofocus" not in browser(cast.anna).get(page(cast.submit())).content.decode()


def test_a_tool_that_changed_since_is_said_and_not_approved(cast: Cast, browser) -> None:
    asked = cast.submit()
    tool = cast.server.tools.get(name="git_commit")
    tool.digest = "sha256:" + "f" * 64
    tool.save()
    client = browser(cast.anna)
    assert "changed this tool after it was asked for" in client.get(page(asked)).content.decode()
    response = client.post(url(asked, "approve"), {"digest": asked.digest})
    assert response.status_code == 409
    asked.refresh_from_db()
    assert asked.status == "invalidated"
    assert not Grant.objects.exists()
