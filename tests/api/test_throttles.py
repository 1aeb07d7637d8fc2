"""So many calls a minute, counted for all processes where there is a Redis, and in this one where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.test import override_settings

from jitaccess.api import throttles
from jitaccess.api.conf import caches as caches_for
from requests_app.models import AccessRequest
from tests.api.conftest import ask, bearer, person, problem, stranger, token_of
from tests.cast import Cast
from tests.redis import Redis

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _within_one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttles, "time", FrozenTime())


class FrozenTime:
    """The middle of a minute, moved by hand; the steady clock goes on."""

    def __init__(self) -> None:
        self.at = 1_800_000_030.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()


@override_settings(API_WRITES_PER_MINUTE=2, API_READS_PER_MINUTE=4)
def test_a_principal_that_writes_too_often_waits_and_may_still_read(cast: Cast):
    api, other = bearer(token_of(cast.agent)), person(cast.anna)
    for tool in ("git_add", "git_commit"):
        assert api.post("/requests", ask(f"git/{tool}")).status_code == 201
    answer = api.post("/requests", ask("git/git_reset"))
    problem(answer, 429, "throttled")
    assert answer.headers["Retry-After"] == "30"
    assert AccessRequest.objects.count() == 2
    assert bearer(token_of(cast.agent)).post("/requests", ask()).status_code == 429, "another token is no other agent"
    assert api.get("/me").status_code == 200
    assert other.get("/me").status_code == 200
    throttles.time.at += 31  # type: ignore[attr-defined]
    assert api.post("/requests", ask("git/git_reset")).status_code == 201


@override_settings(API_READS_PER_MINUTE=1)
def test_an_address_that_tries_tokens_is_slowed_down():
    api = bearer("jit_wrong")
    for _ in range(throttles.PER_ADDRESS):
        problem(api.get("/me"), 401, "token.invalid")
    problem(api.get("/me"), 429, "throttled")
    problem(stranger().get("/nothing"), 429, "throttled")


def test_without_its_redis_calls_are_counted_here_and_nothing_fails(cast: Cast):
    away = caches_for("redis://127.0.0.1:1/0")
    with override_settings(CACHES=away, API_READS_PER_MINUTE=2):
        caches["api-local"].clear()
        api = bearer(token_of(cast.agent))
        assert [api.get("/me").status_code for _ in range(3)] == [200, 200, 429]
        assert throttles._away["until"] > time.monotonic()


def test_with_redis_all_processes_count_together(cast: Cast, redis: str):
    with override_settings(CACHES=caches_for(redis), API_READS_PER_MINUTE=2):
        api = bearer(token_of(cast.agent))
        assert [api.get("/me").status_code for _ in range(3)] == [200, 200, 429]
        assert throttles._away["until"] == 0.0
        caches["api-local"].clear()
        assert api.get("/me").status_code == 429


@pytest.fixture
def redis() -> Iterator[str]:
    server = Redis().start()
    yield server.url
    server.stop()
