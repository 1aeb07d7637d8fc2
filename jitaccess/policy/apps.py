from __future__ import annotations

from django.apps import AppConfig


class PolicyConfig(AppConfig):
    name = "jitaccess.policy"
    label = "jit_policy"
    verbose_name = "Access policy"
