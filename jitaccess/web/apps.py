from __future__ import annotations

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "jitaccess.web"
    label = "jit_web"
    verbose_name = "Web"
