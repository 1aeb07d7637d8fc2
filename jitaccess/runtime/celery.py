"""Celery: the static schedule of sweeps. Rows are the truth, so a lost message costs seconds and nothing else."""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery, beat
from celery.schedules import schedule
from django.conf import settings
from django.db import InterfaceError, OperationalError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jitaccess.settings")

log = logging.getLogger(__name__)

# More sweeps than this wait only when nobody works; what waits longer expires.
MANY_WAITING = 50
_REDIS = {
    "global_keyprefix": "jitaccess:",
    "visibility_timeout": 300,
    # A Redis that hangs is one that is away.
    "socket_connect_timeout": 5,
    "socket_timeout": 10,
    "socket_keepalive": True,
    "health_check_interval": 10,
}

_STARTED, _STARTED_AT = time.monotonic(), datetime.now(UTC)


def steady_now() -> datetime:
    """The time at which this process started, carried on by a clock that nobody can set.

    Beat counts its intervals with it: by the wall clock nothing would be tidied for an hour after a jump back by one.
    """
    return _STARTED_AT + timedelta(seconds=time.monotonic() - _STARTED)


def _one_line(record: logging.LogRecord) -> bool:
    """A filter: while the database is away every sweep fails, every two seconds; no traceback says more than that."""
    if record.exc_info and isinstance(record.exc_info[1], OperationalError | InterfaceError):
        record.exc_info, record.exc_text = None, None
    return True


logging.getLogger("celery.app.trace").addFilter(_one_line)


class Scheduler(beat.Scheduler):
    """Publishes nothing while nobody takes it, and one line when the broker is gone: it is tried again anyway."""

    lost = False

    def adjust(self, n: float, drift: float = 0.0) -> float:  # noqa: ARG002 - Celery's signature
        """When to wake up. Celery's own wakes up 10 ms before, and turns in circles until it is time."""
        return n

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        try:
            channel: Any = self.producer.channel
            queue = channel.queue_declare(self.app.conf.task_default_queue)
            if queue.message_count < MANY_WAITING:
                self.apply_async(entry, producer=self.producer, advance=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next tick tries again
            if not self.lost:
                log.warning("sweeps are not scheduled, because the broker does not answer: %s", error)
            self.lost = True
        else:
            if self.lost:
                log.warning("the broker answers again: sweeps are scheduled")
            self.lost = False


# Each task, and how many seconds lie between two runs of it.
_EVERY = (
    ("requests_app.end_due_grants", 2.0),
    ("requests_app.end_grants_of_disabled", 2.0),
    ("requests_app.end_used_up_grants", 5.0),
    ("requests_app.lapse_requests", 5.0),
    ("requests_app.activate_grants", 2.0),
    ("requests_app.invalidate_requests", 10.0),
    ("requests_app.end_grants_of_removed", 10.0),
    ("requests_app.tell_about_requests", 10.0),
    ("notify.tell_of_ends", 30.0),
    ("requests_app.provision", 2.0),
    ("requests_app.reconcile_targets", 300.0),
    ("notify.deliver", 2.0),
    ("policy.fetch_schedules", 60.0),
    ("api.forget_old_answers", 600.0),
    ("webhooks.deliver", 2.0),
    ("figures.count", 5.0),
    ("figures.tidy", 3600.0),
    ("requests_app.keep_figures", 60.0),
    ("identity.forget_sessions", 600.0),
)
_ROOMS = [
    "requests_app", "requests_app.provisioning", "jitaccess.policy", "jitaccess.identity", "jitaccess.audit",
    "jitaccess.notify", "jitaccess.notify.webhooks", "jitaccess.api",
]  # fmt: skip


def make_app(*, redis_url: str) -> Celery:
    """The Celery application: on Redis where there is one, else in the memory of this process.

    Tasks are acknowledged when they are taken, not when they are done: a sweep that dies is made good by the next one,
    seconds later, and what was prefetched by a dead worker has expired when Redis gives it out again.
    """
    app = Celery("jitaccess", broker=redis_url or "memory://localhost/", set_as_current=True)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: Redis may be away for as long as it likes
        broker_transport_options=_REDIS if redis_url else {"polling_interval": 0.05},
        beat_scheduler="jitaccess.runtime.celery:Scheduler",
        beat_max_loop_interval=1,
        result_backend=None,
        beat_schedule={
            name: {
                "task": name,
                "schedule": schedule(seconds, nowfun=steady_now),
                "options": {"expires": seconds * 5},
            }
            for name, seconds in _EVERY
        },
        task_acks_late=False,
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
    app.autodiscover_tasks(_ROOMS)
    app.autodiscover_tasks(["requests_app"], related_name="sweeps")
    return app


app = make_app(redis_url=settings.REDIS_URL)
