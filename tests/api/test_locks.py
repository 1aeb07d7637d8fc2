"""Locks over the API: people only, and each what is theirs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jitaccess.audit.models import Entry
from jitaccess.policy.locks import live_locks
from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from tests.api.conftest import NOBODY, bearer, person, problem, stranger, token_of
from tests.cast import Cast

pytestmark = pytest.mark.django_db


def test_a_superuser_locks_lists_and_lifts(cast: Cast) -> None:
    api = person(cast.admin)
    ends = now() + timedelta(hours=1)
    body = {"kind": "server", "target": "git", "reason": "A leak", "expires_at": ends.isoformat()}
    answer = api.post("/locks", body, headers={"Idempotency-Key": "one"})
    made = answer.json()
    assert answer.status_code == 201
    assert made["target"] == str(cast.server.pk)
    assert (made["name"], made["live"], made["created_by"]) == ("git", True, "admin")
    assert api.post("/locks", body, headers={"Idempotency-Key": "one"}).json() == made
    again = problem(api.post("/locks", body), 409, "lock.exists")
    assert again["params"] == {"lock_id": made["lock_id"]}
    assert [one["lock_id"] for one in api.get("/locks", live="true").json()["items"]] == [made["lock_id"]]
    assert api.get("/locks", live="false").json()["items"] == []
    lifted = api.post(f"/locks/{made['lock_id']}/lift").json()
    assert (lifted["live"], lifted["lifted_by"]) == (False, "admin")
    problem(api.post(f"/locks/{made['lock_id']}/lift"), 409, "lock.over")
    assert Entry.objects.filter(event__startswith="lock.").count() == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "agent", "target": "no-such", "reason": "x"}, 404, "lock.target"),
        ({"kind": "agent", "target": NOBODY, "reason": "x"}, 404, "lock.target"),
        ({"kind": "everything", "target": "git", "reason": "x"}, 400, "lock.target"),
        ({"kind": "everything", "reason": " "}, 400, "lock.reason"),
        ({"kind": "everything", "reason": "x", "expires_at": "2020-01-01T00:00:00Z"}, 400, "lock.expiry"),
    ],
)
def test_what_is_wrong_is_a_problem_and_locks_nothing(body: dict[str, str], status: int, code: str, cast: Cast) -> None:
    problem(person(cast.admin).post("/locks", body), status, code)
    assert not Lock.objects.exists()


def test_an_owner_locks_his_agent_and_sees_that_only(cast: Cast) -> None:
    person(cast.admin).post("/locks", {"kind": "everything", "reason": "x"})
    api = person(cast.olga)
    made = api.post("/locks", {"kind": "agent", "target": "demo-agent", "reason": "odd"}).json()
    assert [one["lock_id"] for one in api.get("/locks").json()["items"]] == [made["lock_id"]]
    everything = Lock.objects.get(kind="everything")
    problem(api.post(f"/locks/{everything.pk}/lift"), 404, "lock.unknown")
    assert not api.post(f"/locks/{made['lock_id']}/lift").json()["live"]
    for target in ("git", "no-such"):
        problem(api.post("/locks", {"kind": "server", "target": target, "reason": "x"}), 403, "lock.not_yours")
    assert list(live_locks()) == [everything]


def test_no_token_of_an_agent_and_no_stranger_locks_lifts_or_lists(cast: Cast) -> None:
    made = person(cast.admin).post("/locks", {"kind": "agent", "target": "demo-agent", "reason": "x"}).json()
    cast.agent.users.add(cast.admin)
    body = {"kind": "everything", "reason": "x"}
    for user in (None, cast.admin):
        api = bearer(token_of(cast.agent, user))
        for answer in (api.post("/locks", body), api.post(f"/locks/{made['lock_id']}/lift"), api.get("/locks")):
            problem(answer, 403, "agents_never_decide")
    problem(stranger().post("/locks", body), 401, "auth.missing")
    problem(person(cast.carl).post("/locks", body), 403, "lock.not_yours")
    problem(person(cast.carl).post(f"/locks/{made['lock_id']}/lift"), 404, "lock.unknown")
    assert person(cast.carl).get("/locks").json()["items"] == []
    assert live_locks().count() == 1
