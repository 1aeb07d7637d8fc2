"""What Celery's tasks say in the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from celery.schedules import schedule
from django.db import OperationalError

from jitaccess.runtime import celery as runtime_celery

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(("error", "told"), [(OperationalError("it is away"), False), (KeyError("a bug"), True)])
def test_a_sweep_without_a_database_is_one_line_and_a_bug_has_its_traceback(
    error: Exception, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtime_celery.app
    app = Celery("apart", set_as_current=False)

    @app.task(name="apart.sweep", shared=False)
    def sweep() -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        sweep.apply()
    (record,) = [record for record in caplog.records if record.name == "celery.app.trace"]
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) is told


def test_everything_that_is_scheduled_is_there_to_be_run() -> None:
    app = runtime_celery.app
    app.loader.import_default_modules()
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)


def test_beat_sleeps_until_something_is_due_and_does_not_turn_in_circles() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    app = Celery("apart", broker="memory://apart/", set_as_current=False)
    app.conf.beat_schedule = {"apart.sweep": {"task": "apart.sweep", "schedule": schedule(2.0, nowfun=lambda: at)}}
    beat = runtime_celery.Scheduler(app, max_interval=1)
    waited = []
    for _ in range(20):
        waited.append(beat.tick())
        at += timedelta(seconds=waited[-1])
    assert waited[:9] == [1, 1, 0] * 3, "a second, another, and at once again after a run"
