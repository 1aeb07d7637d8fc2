"""/healthz, /readyz and /metrics, asked as a balancer and a scraper ask them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder

from jitaccess.audit.models import Unsequenced
from jitaccess.runtime import vitals as vitals_module
from jitaccess.runtime.gauges import Gauges, of_installation
from jitaccess.runtime.vitals import Vitals
from tests.cast import Cast

pytestmark = pytest.mark.django_db(transaction=True)

Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Answer]


@pytest.fixture
def checks() -> dict[str, Callable[[], bool]]:
    return {"lease": lambda: True}


@pytest.fixture
def vitals(checks: dict[str, Callable[[], bool]], monkeypatch: pytest.MonkeyPatch) -> Vitals:
    monkeypatch.setattr(vitals_module, "KEPT_SECONDS", 0.0)
    return Vitals("gateway", checks, Gauges([of_installation]))


@pytest.fixture
def ask(vitals: Vitals) -> Iterator[Ask]:
    with asyncio.Runner() as runner:

        def ask(path: str, method: str = "GET", **headers: str) -> Answer:
            events: list[dict[str, Any]] = []

            async def send(event: Any) -> None:
                events.append(event)

            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            scope = {"type": "http", "method": method, "path": path, "headers": raw}
            runner.run(vitals(scope, send))
            found = {name.decode(): value.decode() for name, value in events[0]["headers"]}
            return events[0]["status"], found, events[1]["body"]

        yield ask
        runner.run(vitals.close())


def _checks(answer: Answer) -> dict[str, bool]:
    found = json.loads(answer[2])
    checks = {check["name"]: check["ok"] for check in found["checks"]}
    assert (answer[0] == 200) == found["ready"] == all(checks.values())
    assert answer[0] in {200, 503}
    return checks


def test_a_process_is_ready_when_everything_holds_and_says_what_does_not(
    ask: Ask, vitals: Vitals, checks: dict[str, Callable[[], bool]]
) -> None:
    assert _checks(ask("/readyz")) == {"serving": True, "database": True, "schema": True, "lease": True}
    checks["lease"] = lambda: False
    assert [name for name, ok in _checks(ask("/readyz")).items() if not ok] == ["lease"]
    checks["lease"] = lambda: True
    vitals.draining = True
    assert [name for name, ok in _checks(ask("/readyz")).items() if not ok] == ["serving"]
    assert ask("/healthz")[0] == 200, "it is alive: restarting it would cut calls"


def test_a_schema_that_lacks_a_migration_is_not_ready_and_one_that_has_more_is(ask: Ask) -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_applied("jit_audit", "9999_of_the_next_release")
    try:
        assert _checks(ask("/readyz"))["schema"] is True
        recorder.record_unapplied("jit_audit", "0001_initial")
        assert [name for name, ok in _checks(ask("/readyz")).items() if not ok] == ["schema"]
    finally:
        recorder.record_applied("jit_audit", "0001_initial")
        recorder.record_unapplied("jit_audit", "9999_of_the_next_release")


def test_a_database_that_is_away_or_hangs_makes_it_unready_but_not_dead(
    ask: Ask, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals_module, "DATABASE_SECONDS", 0.05)
    goes_on = threading.Event()

    def hangs() -> dict[str, bool]:
        assert goes_on.wait(20)
        return {"database": True, "schema": True}

    read = vitals._database._read
    monkeypatch.setattr(vitals._database, "_read", hangs)
    for _ in range(3):  # they wait for one answer: no thread is taken for each
        assert [name for name, ok in _checks(ask("/readyz")).items() if not ok] == ["database", "schema"]
    assert ask("/healthz")[0] == 200
    goes_on.set()

    def away(*_: object, **__: object) -> None:
        raise OperationalError("a sentence with a password")

    monkeypatch.setattr(vitals_module, "DATABASE_SECONDS", 10)
    monkeypatch.setattr(vitals._database, "_read", read)
    monkeypatch.setattr(MigrationRecorder, "applied_migrations", away)
    answers = [ask("/readyz"), ask("/readyz")]  # the first may still be the one that hung
    assert _checks(answers[-1])["database"] is False
    assert b"password" not in answers[-1][2]


def test_metrics_are_for_whoever_has_the_token(ask: Ask, cast: Cast) -> None:
    right = f"Bearer {settings.METRICS_TOKEN}"
    for wrong in ("", "Bearer ", "Bearer x", right + "x", right[:-1], right.lower(), "Bearer \u00e9"):
        status, headers, body = ask("/metrics", authorization=wrong)
        assert (status, body) == (401, b"")
        assert headers["www-authenticate"].startswith("Bearer")
    assert ask("/metrics", "POST", authorization=right)[0] == 405
    assert ask("/metrics", "HEAD", authorization=right)[::2] == (200, b"")
    cast.submit()
    cast.grant("git_add")
    status, headers, body = ask("/metrics", authorization=right)
    assert status == 200
    assert headers["content-type"].startswith("text/plain")


def test_gauges_are_what_is_in_the_database(cast: Cast) -> None:
    cast.submit()
    cast.grant("git_add")
    found = {family.name: family.samples[0].value for family in Gauges([of_installation]).collect()}
    assert found["jitaccess_database_up"] == 1
    assert found["jitaccess_pending_requests"] == 1
    assert found["jitaccess_live_grants"] == 1
    assert found["jitaccess_ledger_unsequenced"] == Unsequenced.objects.count() > 0
    assert 0 <= found["jitaccess_ledger_unsequenced_age_seconds"] < 60
    assert "jitaccess_ledger_checkpoint_age_seconds" not in found


def test_a_scrape_without_a_database_still_tells_of_the_process() -> None:
    def away() -> dict[str, float]:
        raise OperationalError("gone")

    gauges = Gauges([away], lambda: {"open_streams": 3.0})
    found = {family.name: family.samples[0].value for family in gauges.collect()}
    assert found == {"jitaccess_database_up": 0.0, "jitaccess_open_streams": 3.0}


def test_however_often_it_is_scraped_the_database_is_asked_once_a_second() -> None:
    asked: list[int] = []

    def count() -> dict[str, float]:
        asked.append(1)
        return {"pending_requests": float(len(asked))}

    gauges = Gauges([count])
    for _ in range(5):
        list(gauges.collect())
    assert len(asked) == 1
