from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class StoreConfig(AppConfig):
    name = "jitaccess.store"
    label = "jit_store"

    def ready(self) -> None:
        from jitaccess.store.clock import define_on_sqlite

        # SQLite functions belong to a connection; this is Django's hook for one being opened.
        connection_created.connect(define_on_sqlite, dispatch_uid="jit_store.clock")
