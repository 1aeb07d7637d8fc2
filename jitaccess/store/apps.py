from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_migrate


class StoreConfig(AppConfig):
    name = "jitaccess.store"
    label = "jit_store"

    def ready(self) -> None:
        from jitaccess.store.clock import define_on_sqlite
        from jitaccess.store.metrics import watch_connection
        from jitaccess.store.triggers import drop_before_migration, install_after_migration

        # SQLite functions belong to a connection; this is Django's hook for one being opened.
        connection_created.connect(define_on_sqlite, dispatch_uid="jit_store.clock")
        connection_created.connect(watch_connection, dispatch_uid="jit_store.errors")
        pre_migrate.connect(drop_before_migration, dispatch_uid="jit_store.no_triggers")
        post_migrate.connect(install_after_migration, dispatch_uid="jit_store.triggers")
