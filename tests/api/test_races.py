"""Several at once, with real connections: one of them wins, the others are told."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from django.db import connection, transaction

from jitaccess.api.idempotency import _take_turn
from jitaccess.api.models import StoredAnswer
from jitaccess.audit.models import Entry
from requests_app.models import AccessRequest, Grant
from tests.api.conftest import ask, bearer, person, problem, token_of
from tests.cast import Cast
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)

TRIALS = 3


def test_of_two_approvers_one_wins_and_the_other_is_told_who_did(cast: Cast):
    anna, bert = person(cast.anna), person(cast.bert)
    for trial in range(TRIALS):
        asked = cast.submit(seconds=60 + trial)
        path, body = f"/requests/{asked.pk}/approve", {"digest": asked.digest}
        keys: list[dict[str, str] | None] = [{"Idempotency-Key": str(asked.pk)}, None]
        answers = race(lambda: anna.post(path, body, headers=keys[0]), lambda: bert.post(path, body, headers=keys[1]))
        won, lost = sorted(answers, key=lambda one: one.status_code)
        assert won.status_code == 200
        detail = problem(lost, 409, "request.already_decided")["detail"]
        assert re.fullmatch(r"Already approved by (anna|bert) at \d\d:\d\d UTC\.", detail)
        grant = Grant.objects.get(request=asked)
        assert Entry.objects.filter(request=asked.pk, event="request.approved").count() == 1
        assert bearer(token_of(cast.agent)).post(f"/grants/{grant.pk}/release").status_code == 200


def test_the_same_key_at_once_creates_one_request(cast: Cast):
    token = token_of(cast.agent)

    def submit(trial: int) -> Any:
        return bearer(token).post("/requests", ask(minutes=5 + trial), headers={"Idempotency-Key": f"k{trial}"})

    for trial in range(TRIALS):
        answers = race(*[lambda trial=trial: submit(trial)] * 3)
        done = [answer for answer in answers if answer.status_code == 201]
        for answer in answers:
            if answer not in done:
                problem(answer, 409, "idempotency.in_progress")
        assert done
        assert len({answer.json()["request_id"] for answer in done}) == 1
        assert sum("Idempotency-Replayed" not in answer.headers for answer in done) == 1
        assert AccessRequest.objects.count() == StoredAnswer.objects.count() == trial + 1
        assert Entry.objects.filter(event="request.submitted").count() == trial + 1
        again = submit(trial)
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")


@pytest.mark.postgresql_only
def test_a_key_that_is_being_answered_is_in_progress(cast: Cast):
    api, principal = bearer(token_of(cast.agent)), cast.principal()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            _take_turn(principal.key, "k")
            held.set()
            done.wait(20)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    try:
        answer = api.post("/requests", ask(), headers={"Idempotency-Key": "k"})
        problem(answer, 409, "idempotency.in_progress")
        assert answer.headers["Retry-After"] == "1"
        assert not AccessRequest.objects.exists()
    finally:
        done.set()
        thread.join(20)
    assert api.post("/requests", ask(), headers={"Idempotency-Key": "k"}).status_code == 201


def test_a_role_that_changes_is_seen_at_the_next_ask(cast: Cast):
    api = bearer(token_of(cast.agent))
    assert len(api.get("/requestable").json()["items"]) == 3
    cast.requestable.delete()
    assert api.get("/requestable").json()["items"] == []
    problem(api.post("/requests", ask()), 400, "request.unknown_tool")
