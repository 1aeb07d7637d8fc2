from __future__ import annotations

from django.apps import AppConfig


class NotifyConfig(AppConfig):
    name = "jitaccess.notify"
    label = "jit_notify"
    verbose_name = "Notices"
