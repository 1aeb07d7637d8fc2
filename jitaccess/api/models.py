from __future__ import annotations

from typing import ClassVar

from django.db import models


class StoredAnswer(models.Model):
    """What an Idempotency-Key was answered with, written in the transaction of the effect. Never holds a secret."""

    principal_key = models.CharField(max_length=80)
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=80, help_text="Of the path and the body that came with it.")
    status = models.PositiveSmallIntegerField()
    body = models.TextField()
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["principal_key", "key"], name="jit_one_answer_per_idempotency_key"),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.status}"
