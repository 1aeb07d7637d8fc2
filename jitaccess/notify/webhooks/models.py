from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.db import models
from django.db.models import Q

from jitaccess.identity.models import Team, User, slug_validator
from jitaccess.kernel.ids import uuid7


class Endpoint(models.Model):
    """An address of somebody's program, told of events. Its secrets open only for this row and this host."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    url = models.CharField("URL", max_length=500)
    events = models.TextField(help_text='Separated by spaces: "*", "request.*", "grant.revoked".')
    team = models.ForeignKey(
        Team, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Only of its agents."
    )
    sealed = models.TextField(editable=False)
    sealed_before = models.TextField(blank=True, editable=False)
    rotated_at = models.DateTimeField(null=True, editable=False)
    enabled = models.BooleanField(default=True)
    disabled_why = models.CharField(max_length=300, blank=True, editable=False)
    # Since when nothing got through, and until when it is left alone after that.
    failing_since = models.DateTimeField(null=True, editable=False)
    held_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(editable=False)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class HookDelivery(models.Model):
    """One message owed to an endpoint: open until it was taken (`delivered_at`) or given up (`gave_up_at`)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="deliveries")
    entry = models.UUIDField(help_text="The ledger entry that is told.")
    event = models.CharField(max_length=64)
    replay_of = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    replay = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True)
    gave_up_at = models.DateTimeField(null=True)
    status = models.PositiveSmallIntegerField(null=True, help_text="Of the latest answer.")
    error = models.CharField(max_length=500, blank=True)
    answer = models.TextField(blank=True, help_text="How its latest answer began.")

    class Meta:
        verbose_name = "webhook delivery"
        verbose_name_plural = "webhook deliveries"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["endpoint", "entry"], condition=Q(replay=False), name="jit_one_hook_per_entry"
            ),
            models.UniqueConstraint(
                fields=["endpoint", "entry"],
                condition=Q(replay=True, delivered_at=None, gave_up_at=None),
                name="jit_one_open_replay",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["endpoint", "due_at"],
                condition=Q(delivered_at=None, gave_up_at=None),
                name="jit_hook_due",
            ),
            models.Index(fields=["endpoint", "id"], name="jit_hook_of_endpoint"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.endpoint_id}"

    @property
    def message_id(self) -> str:
        """The same at every try and replay, so that a receiver that had it knows."""
        return message_id(self.entry)

    @property
    def open(self) -> bool:
        return self.delivered_at is None and self.gave_up_at is None


def message_id(entry: UUID) -> str:
    return f"evt_{entry.hex}"
