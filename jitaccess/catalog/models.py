from __future__ import annotations

import json
from typing import Any, ClassVar

from django.core.validators import RegexValidator
from django.db import models

from jitaccess.kernel.ids import uuid7

# No underscore: on the aggregate endpoint <slug>__<tool> must split in one way only.
slug_validator = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
    "Use small letters, digits and hyphens (at most 32), starting and ending with a letter or digit.",
)


class AccessClass(models.TextChoices):
    """What an admin said a tool does. `unclassified` is in no class-based rule."""

    READ = "read", "read"
    WRITE = "write", "write"
    DESTRUCTIVE = "destructive", "destructive"
    UNCLASSIFIED = "unclassified", "unclassified"


class Server(models.Model):
    """An MCP server behind the gateway. How a stdio server is started lives in the operator's file, never here:
    whoever may edit rows must not thereby be able to start programs.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=32, unique=True, validators=[slug_validator])
    description = models.CharField(max_length=300, blank=True)
    instructions = models.TextField(blank=True, help_text="Told to agents with the gateway's own instructions.")
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["slug"]

    def __str__(self) -> str:
        return self.slug


class Tool(models.Model):
    """One callable of a server, identified by (server, exact name).

    `definition` is what the server says now, `digest` its digest; `pin` is the digest an admin reviewed.
    While they differ the tool is quarantined: nobody may call it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="tools")
    name = models.CharField(max_length=128)
    access = models.CharField(max_length=12, choices=AccessClass.choices, default=AccessClass.UNCLASSIFIED)
    definition = models.TextField()
    digest = models.CharField(max_length=80)
    pin = models.CharField(max_length=80, blank=True)
    present = models.BooleanField(default=True, help_text="The server still offers it.")

    class Meta:
        ordering: ClassVar = ["server", "name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["server", "name"], name="jit_tool_name_unique_per_server"),
        ]

    def __str__(self) -> str:
        return f"{self.server.slug}/{self.name}"

    @property
    def quarantined(self) -> bool:
        return self.pin != self.digest

    @property
    def parsed(self) -> dict[str, Any]:
        """The definition as the server gave it."""
        value: dict[str, Any] = json.loads(self.definition)
        return value
