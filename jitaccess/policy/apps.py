from __future__ import annotations

from django.apps import AppConfig

from jitaccess.policy.triggers import TABLES, promise
from jitaccess.store import triggers, wakeups


class PolicyConfig(AppConfig):
    name = "jitaccess.policy"
    label = "jit_policy"
    verbose_name = "Access policy"

    def ready(self) -> None:
        triggers.register(self.label, promise)
        wakeups.watch(TABLES)
