from __future__ import annotations

from typing import ClassVar

from django.db import models

from jitaccess.identity.models import Team, User
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


class Preference(models.Model):
    """What a person, or a team for its members, said about a group of events over a channel. No row: nothing."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    group = models.CharField(max_length=16)
    channel = models.CharField(max_length=16)
    on = models.BooleanField()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(user=None, team__isnull=False) | models.Q(user__isnull=False, team=None),
                name="jit_preference_of_one",
            ),
            models.UniqueConstraint(fields=["user", "group", "channel"], name="jit_one_preference_of_a_person"),
            models.UniqueConstraint(fields=["team", "group", "channel"], name="jit_one_preference_of_a_team"),
        ]

    def __str__(self) -> str:
        return f"{self.user or self.team}: {self.group} by {self.channel} {'on' if self.on else 'off'}"
