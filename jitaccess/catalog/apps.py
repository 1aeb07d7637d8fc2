from __future__ import annotations

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "jitaccess.catalog"
    label = "jit_catalog"
    verbose_name = "Servers and tools"
