from __future__ import annotations

from django.apps import AppConfig


class RequestsConfig(AppConfig):
    name = "requests_app"
    label = "jit_requests"
    verbose_name = "Requests"
