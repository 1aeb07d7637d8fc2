from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from jitaccess.kernel.ids import uuid7


class Entry(models.Model):
    """One line of the ledger. Append-only: triggers refuse UPDATE, DELETE and TRUNCATE.

    Plain values, no foreign keys: names are stored beside ids, so that history reads after what it names is gone.
    `data` is canonical JSON in text: escaped, so that a NUL in somebody's arguments is storable on PostgreSQL.
    """

    uid = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField()
    event = models.CharField(max_length=64)
    outcome = models.CharField(max_length=16, blank=True)
    agent = models.UUIDField(null=True)
    agent_name = models.CharField(max_length=150, blank=True)
    user = models.UUIDField(null=True)
    user_name = models.CharField(max_length=150, blank=True)
    client = models.CharField(max_length=200, blank=True)
    source = models.CharField(max_length=64, blank=True)
    request = models.UUIDField(null=True)
    grant = models.UUIDField(null=True)
    call = models.UUIDField(null=True)
    server = models.UUIDField(null=True)
    server_name = models.CharField(max_length=64, blank=True)
    tool = models.CharField(max_length=200, blank=True)
    tool_pin = models.CharField(max_length=80, blank=True)
    bindings = models.TextField(default="[]")
    policy_version = models.BigIntegerField(null=True)
    instance = models.UUIDField(null=True)
    data = models.TextField(default="{}")

    class Meta:
        verbose_name_plural = "entries"
        ordering: ClassVar = ["-uid"]
        indexes: ClassVar = [
            # Of those that most entries lack, only the others are kept in the index.
            models.Index(fields=["request", "uid"], name="jit_entry_request", condition=Q(request__isnull=False)),
            models.Index(fields=["grant", "uid"], name="jit_entry_grant", condition=Q(grant__isnull=False)),
            models.Index(fields=["call"], name="jit_entry_call", condition=Q(call__isnull=False)),
            models.Index(fields=["agent", "uid"], name="jit_entry_agent"),
            models.Index(fields=["event", "uid"], name="jit_entry_event"),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.agent_name or self.user_name} {self.tool}".strip()


class Unsequenced(models.Model):
    """Entries that have no place in the order yet. A trigger on Entry fills it, the sequencer empties it."""

    entry = models.OneToOneField(Entry, on_delete=models.DO_NOTHING, primary_key=True, db_constraint=False)

    class Meta:
        managed = True

    def __str__(self) -> str:
        return str(self.entry_id)


class Bundle(models.Model):
    """Entries of calls that are on record and not in the table of entries yet: see bundles.py. PostgreSQL only."""

    id = models.UUIDField(primary_key=True, editable=False, help_text="The uid of its first entry.")
    at = models.DateTimeField(help_text="The time of its entries.")
    n = models.IntegerField(help_text="How many they are.")
    body = models.TextField()

    def __str__(self) -> str:
        return f"{self.n} entries of {self.at:%F %T}"


class Leaf(models.Model):
    """The order of the ledger: contiguous from 1, given by one sequencer; cursors follow it. Append-only too."""

    seq = models.BigIntegerField(primary_key=True)
    # No constraint: triggers keep the entry, and to check it would lock each one that is placed.
    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, related_name="leaf", db_constraint=False)
    leaf_hash = models.CharField(max_length=64)

    class Meta:
        verbose_name_plural = "leaves"

    def __str__(self) -> str:
        return f"#{self.seq}"


class Node(models.Model):
    """The hash of a perfect subtree of 256 or 65,536 or … leaves, so that a root never needs all of them."""

    level = models.PositiveSmallIntegerField()
    index = models.BigIntegerField()
    hash = models.CharField(max_length=64)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["level", "index"], name="jit_one_node_per_place")]

    def __str__(self) -> str:
        return f"node {self.level}/{self.index}"


class Checkpoint(models.Model):
    """A signed head: after `size` entries the tree's root was this. Copies of the note leave the database."""

    size = models.BigIntegerField(primary_key=True)
    note = models.TextField()
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-size"]

    def __str__(self) -> str:
        return f"checkpoint at {self.size}"


class Cursor(models.Model):
    """How far a reader of the ledger has come: everything up to `seq` is done."""

    name = models.CharField(max_length=64, primary_key=True)
    seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} at {self.seq}"


class HourCount(models.Model):
    """How many entries of an event there were in an hour (its start): about one server, or (a UUID of zeros) in all."""

    hour = models.DateTimeField()
    event = models.CharField(max_length=64)
    server = models.UUIDField()
    server_name = models.CharField(max_length=64)
    n = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["server", "event", "hour"], name="jit_one_hour_count")]
        indexes: ClassVar = [models.Index(fields=["hour"], name="jit_hour_count_hour")]

    def __str__(self) -> str:
        return f"{self.n} {self.event} in the hour of {self.hour:%F %H:%M}"


class DayOfAgent(models.Model):
    """How many entries of one event about calls an agent had on a day (its start, UTC)."""

    agent = models.UUIDField()
    day = models.DateTimeField()
    event = models.CharField(max_length=64)
    n = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "days of agents"
        constraints: ClassVar = [models.UniqueConstraint(fields=["agent", "day", "event"], name="jit_one_day_of_agent")]
        indexes: ClassVar = [models.Index(fields=["day"], name="jit_day_of_agent_day")]

    def __str__(self) -> str:
        return f"{self.n} {self.event} on {self.day:%F}"


class ToolUse(models.Model):
    """How often an agent was let call a tool of a server, ever; and when first and last."""

    agent = models.UUIDField()
    server = models.UUIDField()
    tool = models.CharField(max_length=200)
    agent_name = models.CharField(max_length=150)
    server_name = models.CharField(max_length=64)
    n = models.BigIntegerField()
    first = models.DateTimeField()
    last = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["agent", "server", "tool"], name="jit_one_use_of_tool"),
        ]
        indexes: ClassVar = [models.Index(fields=["first"], name="jit_tool_use_first")]

    def __str__(self) -> str:
        return f"{self.agent_name} called {self.server_name}/{self.tool} {self.n} times"


class Kept(models.Model):
    """An answer that takes long to find, as JSON, and when it was found: see kept.py."""

    name = models.CharField(max_length=80, primary_key=True)
    value = models.TextField()
    at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "kept"

    def __str__(self) -> str:
        return f"{self.name} of {self.at:%F %H:%M}"


class Burst(models.Model):
    """How many entries of one kind of trouble (refused or repeated calls) an agent had in ten minutes (their start)."""

    at = models.DateTimeField()
    event = models.CharField(max_length=64)
    agent = models.UUIDField()
    agent_name = models.CharField(max_length=150)
    n = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["at", "event", "agent"], name="jit_one_burst")]

    def __str__(self) -> str:
        return f"{self.n} {self.event} of {self.agent_name} from {self.at:%F %H:%M}"
