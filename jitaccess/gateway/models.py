from __future__ import annotations

from typing import ClassVar

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
    """A call that was authorized and has no outcome on record yet: written and removed with those entries.

    Written for every call, so it says no more than it must: who called what is in the entry that authorized it.
    """

    call = models.UUIDField(primary_key=True)
    instance = models.UUIDField()

    def __str__(self) -> str:
        return str(self.call)


class Continuation(models.Model):
    """A call that ended with a question to its client and may be made once more, by the same principal, as one use."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    call = models.UUIDField(help_text="The first call of the row.")
    principal_key = models.CharField(max_length=80)
    binding = models.UUIDField(null=True, help_text="Of whose uses one was taken.")
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"continuation of {self.call}"


class Mail(models.Model):
    """What one gateway process has to tell another: sealed, and gone once taken."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    to = models.UUIDField(db_index=True, help_text="The process that it is for.")
    sealed = models.TextField()
    until = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"for {self.to}"


class RefusalCount(models.Model):
    """How often one kind of call was refused to one source in a minute, by one process. Gone once written down."""

    instance = models.UUIDField()
    kind = models.CharField(max_length=80)
    minute = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField()
    first_call = models.UUIDField(help_text="The call that has an entry of its own.")
    code = models.CharField(max_length=32)
    facts = models.TextField(help_text="JSON: who called what.")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["instance", "kind", "minute"], name="jit_one_count_a_kind_and_minute")
        ]

    def __str__(self) -> str:
        return f"{self.count} times {self.code}"
