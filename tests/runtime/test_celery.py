"""What Celery's tasks say in the log."""

from __future__ import annotations

import logging

import pytest
from celery import Celery
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
