from __future__ import annotations

from typing import ClassVar

from django.db import models

from jitaccess.identity.models import User
from jitaccess.kernel.ids import uuid7


class Delivery(models.Model):
    """One notice to one person over one channel, owed until it is sent; tried again with a growing pause."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    entry = models.UUIDField(help_text="The ledger entry that caused it.")
    event = models.CharField(max_length=64)
    request = models.UUIDField(null=True, help_text="Empty: it is about the tools of a server.")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    channel = models.CharField(max_length=16)
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["entry", "user", "channel"], name="jit_one_delivery_per_notice"),
        ]
        indexes: ClassVar = [models.Index(fields=["sent_at", "due_at"], name="jit_delivery_due")]

    def __str__(self) -> str:
        return f"{self.event} to {self.user} by {self.channel}"
