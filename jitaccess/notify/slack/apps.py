from __future__ import annotations

from django.apps import AppConfig


class SlackConfig(AppConfig):
    name = "jitaccess.notify.slack"
    label = "jit_slack"
    verbose_name = "Slack"
