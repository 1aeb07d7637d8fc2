from __future__ import annotations

from django.apps import AppConfig

from jitaccess.store import wakeups


class GatewayConfig(AppConfig):
    name = "jitaccess.gateway"
    label = "jit_gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        wakeups.watch({"jit_gateway_mail"})
