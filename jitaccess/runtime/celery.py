"""Celery: the static schedule of sweeps. Rows are the truth, so a lost message costs seconds and nothing else."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import schedule

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jitaccess.settings")

_STARTED, _STARTED_AT = time.monotonic(), datetime.now(UTC)


def steady_now() -> datetime:
    """The time at which this process started, carried on by a clock that nobody can set.

    Beat counts its intervals with it: by the wall clock nothing would be tidied for an hour after a jump back by one.
    """
    return _STARTED_AT + timedelta(seconds=time.monotonic() - _STARTED)


def make_app() -> Celery:
    """The Celery application: on Redis where there is one, else in the memory of this process."""
    from django.conf import settings

    app = Celery("jitaccess", broker=settings.REDIS_URL or "memory://localhost/", set_as_current=True)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={} if settings.REDIS_URL else {"polling_interval": 0.05},
        beat_schedule={
            name: {
                "task": name,
                "schedule": schedule(seconds, nowfun=steady_now),
                "options": {"expires": seconds * 5},
            }
            for name, seconds in (
                ("requests_app.end_due_grants", 2.0),
                ("requests_app.end_grants_of_disabled", 2.0),
                ("requests_app.end_used_up_grants", 5.0),
                ("requests_app.lapse_requests", 5.0),
                ("notify.deliver", 2.0),
            )
        },
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        timezone="UTC",
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=4,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    app.autodiscover_tasks(["requests_app", "jitaccess.notify"])
    return app


app = make_app()
