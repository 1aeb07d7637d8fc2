from __future__ import annotations

from django.db import models

from jitaccess.kernel.ids import uuid7


class GatewayInstance(models.Model):
    """A running gateway process. It is alive while it renews its lease."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    lease_until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class OpenCall(models.Model):
    """A call that was authorized and has no outcome on record yet: written and removed with those entries."""

    call = models.UUIDField(primary_key=True)
    instance = models.UUIDField(db_index=True)
    facts = models.TextField(help_text="JSON: what the closing entry says about the call.")

    def __str__(self) -> str:
        return str(self.call)
