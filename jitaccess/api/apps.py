from __future__ import annotations

from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "jitaccess.api"
    label = "jit_api"
    verbose_name = "REST API"
