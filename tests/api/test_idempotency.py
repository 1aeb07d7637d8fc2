"""A POST that is repeated with its key happens once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jitaccess.api.idempotency import KEPT
from jitaccess.api.models import StoredAnswer
from jitaccess.api.tasks import forget
from jitaccess.audit.models import Entry
from jitaccess.identity.models import AccessToken
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from tests.api.conftest import Api, ask, bearer, person, problem, token_of
from tests.cast import Cast
from tests.clocks import Clock

pytestmark = pytest.mark.django_db

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def test_the_same_key_gets_the_same_answer_again(agent: Api):
    first = agent.post("/requests", ask(), headers=KEY)
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (201, False)
    agent.post(f"/requests/{first.json()['request_id']}/cancel")
    again = agent.post("/requests", ask(), headers={"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert AccessRequest.objects.count() == 1
    assert Entry.objects.filter(event="request.submitted").count() == 1


def test_another_body_or_another_address_with_the_same_key_is_refused(agent: Api):
    first = agent.post("/requests", ask(), headers=KEY).json()
    problem(agent.post("/requests", ask("git/git_add"), headers=KEY), 422, "idempotency.key_reused")
    path = f"/requests/{first['request_id']}/cancel"
    problem(agent.post(path, headers=KEY), 422, "idempotency.key_reused")
    assert AccessRequest.objects.get().pending


def test_keys_belong_to_one_principal(cast: Cast, agent: Api):
    cast.agent.users.add(cast.bert)
    first = agent.post("/requests", ask(), headers=KEY).json()
    other = bearer(token_of(cast.agent, cast.bert)).post("/requests", ask(), headers=KEY)
    assert other.status_code == 201
    assert other.json()["request_id"] != first["request_id"]


def test_a_refusal_is_repeated_with_what_it_wrote(cast: Cast):
    asked = cast.submit()
    cast.agent.enabled = False
    cast.agent.save()
    api, path = person(cast.anna), f"/requests/{asked.pk}/approve"
    first = problem(api.post(path, {"digest": asked.digest}, headers=KEY), 409, "request.invalidated")
    asked.refresh_from_db()
    assert asked.status == "invalidated", "what the refusal says is on record"
    again = api.post(path, {"digest": asked.digest}, headers=KEY)
    assert problem(again, 409, "request.invalidated") == first
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Entry.objects.filter(event="request.invalidated").count() == 1


def test_a_failure_is_not_stored_and_leaves_nothing(agent: Api, monkeypatch: pytest.MonkeyPatch):
    from jitaccess.api import requests as views

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(views, "full_request", fail)
        problem(agent.post("/requests", ask(), headers=KEY), 500, "internal")
    assert not AccessRequest.objects.exists(), "the effect and its answer are one transaction"
    assert not StoredAnswer.objects.exists()
    assert agent.post("/requests", ask(), headers=KEY).status_code == 201


def test_a_key_is_forgotten_after_a_day(cast: Cast, clock: Clock):
    cast_token = bearer(token_of(cast.agent))
    cast_token.post("/requests", ask(), headers=KEY)
    cast_token.post("/requests", ask("git/git_add"), headers={"Idempotency-Key": "b"})
    clock.at(now() + KEPT + timedelta(seconds=1))
    assert bearer(token_of(cast.agent)).post("/requests", ask("git/git_reset"), headers=KEY).status_code == 201
    assert forget() == 1
    assert StoredAnswer.objects.get().key == KEY["Idempotency-Key"]
    assert forget() == 0


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb", "caf\xe9"])
def test_keys_that_cannot_be_kept_are_refused(key: str, agent: Api):
    problem(agent.post("/requests", ask(), headers={"Idempotency-Key": key}), 400, "idempotency.key")
    assert not AccessRequest.objects.exists()


def test_a_token_is_never_stored_so_its_issue_takes_no_key(cast: Cast):
    api, path = person(cast.admin), f"/agents/{cast.agent.pk}/tokens"
    problem(api.post(path, {"minutes": 5}, headers=KEY), 400, "idempotency.not_here")
    assert not AccessToken.objects.exists()
    assert api.post(path, {"minutes": 5}).status_code == 201
    assert not StoredAnswer.objects.exists()


def test_input_that_does_not_fit_leaves_the_key_free(agent: Api):
    problem(agent.post("/requests", b"{", headers=KEY), 400, "json.invalid")
    assert agent.post("/requests", ask(), headers=KEY).status_code == 201
