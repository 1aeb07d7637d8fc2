from __future__ import annotations

import json
from typing import Any, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from jitaccess.catalog.options import BOUNDS, DEFAULTS, MEANINGS, NAMES, ServerOptions
from jitaccess.identity.models import Team, labels_validator
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.secretbox import key_id

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


class Transport(models.TextChoices):
    """How a server is reached: a program that the gateway starts, or streamable HTTP."""

    STDIO = "stdio", "stdio"
    HTTP = "http", "HTTP"


class Era(models.TextChoices):
    """Which protocol a server speaks; `auto` finds out."""

    AUTO = "auto", "find out"
    MODERN = "modern", "2026-07-28"
    LEGACY = "legacy", "2025-11-25 or older"


def _number(name: str) -> Any:
    least, most = BOUNDS[name]
    default = getattr(DEFAULTS, name)
    return models.PositiveIntegerField(
        default=default,
        db_default=default,
        validators=[MinValueValidator(least), MaxValueValidator(most)],
        help_text=MEANINGS[name],
    )


def _switch(name: str) -> Any:
    return models.BooleanField(default=False, db_default=False, help_text=MEANINGS[name])


class Server(models.Model):
    """An MCP server behind the gateway. How a stdio server is started lives in the operator's file, never here:
    whoever may edit rows must not thereby be able to start programs.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=32, unique=True, validators=[slug_validator])
    description = models.CharField(max_length=300, blank=True)
    instructions = models.TextField(blank=True, help_text="Told to agents with the gateway's own instructions.")
    enabled = models.BooleanField(default=True)
    # db_default: the release before, which does not know these columns, goes on while a migration runs.
    transport = models.CharField(
        max_length=5, choices=Transport.choices, default=Transport.STDIO, db_default=Transport.STDIO, editable=False
    )
    url = models.CharField(
        "URL", max_length=500, blank=True, default="", db_default="", help_text="The MCP endpoint: https://…/mcp"
    )
    era = models.CharField("protocol", max_length=6, choices=Era.choices, default=Era.AUTO, db_default=Era.AUTO)
    shared = models.BooleanField(
        default=False,
        db_default=False,
        help_text="It keeps no state and no identity of its own, so that everybody may use one connection.",
    )
    owner_team = models.ForeignKey(
        Team,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="servers",
        help_text="Whom approval policies mean by `server-owners`.",
    )
    labels = models.TextField(
        default="{}",
        db_default="{}",
        blank=True,
        validators=[labels_validator],
        help_text='JSON, for roles and approval policies: {"env": "prod", "data": "pii"}',
    )
    # Its ServerOptions, by their names.
    call_seconds = _number("call_seconds")
    let_finish_seconds = _number("let_finish_seconds")
    max_result_bytes = _number("max_result_bytes")
    identity_header = _switch("identity_header")
    repeat_limit = _number("repeat_limit")
    accept_definitions = _switch("accept_definitions")

    class Meta:
        ordering: ClassVar = ["slug"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(transport=Transport.STDIO, url="") | (Q(transport=Transport.HTTP) & ~Q(url="")),
                name="jit_server_http_has_a_url",
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def options(self) -> ServerOptions:
        return ServerOptions(**{name: getattr(self, name) for name in NAMES})


class ServerCredential(models.Model):
    """A header that the gateway sends to an HTTP server. `sealed` opens only as this header of this server."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="credentials")
    header = models.CharField(max_length=100, default="Authorization")
    sealed = models.TextField(editable=False)
    updated_at = models.DateTimeField(editable=False)

    class Meta:
        ordering: ClassVar = ["server", "header"]
        verbose_name = "server credential"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["server", "header"], name="jit_one_credential_a_header"),
        ]

    def __str__(self) -> str:
        return f"{self.header} of {self.server.slug}"

    @property
    def key(self) -> str:
        """The id of the key it is sealed with."""
        return key_id(self.sealed)


class ServerHealth(models.Model):
    """What came of asking a server last: for people to look at, no input to any decision."""

    server = models.OneToOneField(Server, on_delete=models.CASCADE, primary_key=True, related_name="health")
    ok = models.BooleanField()
    detail = models.CharField(max_length=500, blank=True)
    checked_at = models.DateTimeField()
    era = models.CharField(max_length=20, blank=True)
    tools = models.PositiveIntegerField(null=True)
    reported_name = models.CharField(max_length=100, blank=True)
    reported_version = models.CharField(max_length=100, blank=True)
    # The capabilities it announces besides tools, as far as they are relayed; None while it never did.
    announces = models.JSONField(null=True, editable=False)

    class Meta:
        verbose_name_plural = "server health"

    def __str__(self) -> str:
        return f"{self.server.slug}: {'reachable' if self.ok else self.detail}"


class Tool(models.Model):
    """One callable of a server, identified by (server, exact name).

    `definition` is what the server says now, `digest` its digest; `pin` is the digest an admin reviewed, and
    `pinned_definition` what that said. While they differ the tool is quarantined: nobody may call it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="tools")
    name = models.CharField(max_length=128)
    access = models.CharField(max_length=12, choices=AccessClass.choices, default=AccessClass.UNCLASSIFIED)
    definition = models.TextField()
    digest = models.CharField(max_length=80)
    pin = models.CharField(max_length=80, blank=True)
    pinned_definition = models.TextField(blank=True, default="", db_default="", editable=False)
    present = models.BooleanField(default=True, help_text="The server still offers it.")
    labels = models.TextField(
        default="{}",
        db_default="{}",
        blank=True,
        validators=[labels_validator],
        help_text='JSON, for roles and approval policies, besides those of its server: {"data": "pii"}',
    )

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
