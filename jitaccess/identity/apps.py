from __future__ import annotations

from django.apps import AppConfig


class IdentityConfig(AppConfig):
    name = "jitaccess.identity"
    label = "jit_identity"
    verbose_name = "People and agents"

    def ready(self) -> None:
        from jitaccess.identity import on_record

        on_record.connect()
