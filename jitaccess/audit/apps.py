from __future__ import annotations

from django.apps import AppConfig

from jitaccess.audit.triggers import promise
from jitaccess.store import triggers


class AuditConfig(AppConfig):
    name = "jitaccess.audit"
    label = "jit_audit"
    verbose_name = "Ledger"

    def ready(self) -> None:
        triggers.register(self.label, promise)
