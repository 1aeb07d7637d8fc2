from __future__ import annotations

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "jitaccess.gateway"
    label = "jit_gateway"
    verbose_name = "Gateway"
