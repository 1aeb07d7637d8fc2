from __future__ import annotations

from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "jitaccess.audit"
    label = "jit_audit"
    verbose_name = "Ledger"
