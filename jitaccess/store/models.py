from __future__ import annotations

from typing import ClassVar

from django.db import models

from jitaccess.kernel.ids import uuid7


class ClockJump(models.Model):
    """A jump of the clock of the machine that SQLite runs on: calls are refused until an operator accepts it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    noticed_at = models.DateTimeField()
    seconds = models.FloatField(help_text="Forward is positive, back is negative.")
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return f"{abs(self.seconds):.1f} s {'forward' if self.seconds > 0 else 'back'}"
