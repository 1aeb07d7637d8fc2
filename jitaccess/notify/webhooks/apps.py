from __future__ import annotations

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "jitaccess.notify.webhooks"
    label = "jit_webhooks"
    verbose_name = "Webhooks"
