from __future__ import annotations

from django.apps import AppConfig

from jitaccess.store import triggers, wakeups
from requests_app.triggers import REQUESTS, promise


class RequestsConfig(AppConfig):
    name = "requests_app"
    label = "jit_requests"
    verbose_name = "Requests"

    def ready(self) -> None:
        triggers.register(self.label, promise)
        wakeups.watch([REQUESTS], updates_only=True)  # those that wait, wait for the end of one
