from __future__ import annotations

from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "jitaccess.api"
    label = "jit_api"
    verbose_name = "REST API"

    def ready(self) -> None:
        from jitaccess.api import schema  # noqa: F401 - tells the generator of the OpenAPI file about our classes
