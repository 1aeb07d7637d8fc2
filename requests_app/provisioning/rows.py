"""The rows: where access is provisioned (Target), what is there (Provision), and for which grants (Claim)."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from jitaccess.identity.models import Agent, User
from jitaccess.kernel.ids import uuid7


class State(StrEnum):
    """Of one entitlement on one target. `granting` and `revoking` are intents: on record before the target hears
    anything, so that whoever finds them knows that something may be there.
    """

    NONE = "none"
    GRANTING = "granting"
    GRANTED = "granted"
    REVOKING = "revoking"
    REVOKED = "revoked"


_STATES = [(state.value, state.value) for state in State]
_slug = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
    "Use small letters, digits and hyphens (at most 32), starting and ending with a letter or digit.",
)


class Target(models.Model):
    """Another system in which grants take effect too. Its secrets open only for this row and this address."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=32, unique=True, validators=[_slug])
    kind = models.CharField(max_length=32, default="webhook")
    description = models.CharField(max_length=300, blank=True)
    url = models.CharField("URL", max_length=500, blank=True, help_text="Where a webhook is sent: https://…")
    match = models.TextField(
        help_text="Which parts of requests are provisioned here, one pattern a line: server:git, server:git-*, "
        "role:report-writer, database:shop."
    )
    enabled = models.BooleanField(
        default=True, help_text="Switched off, nothing new is given here. What was given is still taken away."
    )
    sealed = models.TextField(blank=True, editable=False)
    sealed_before = models.TextField(blank=True, editable=False)
    # What came of it last: for people, and so that one that is away is not asked by every row.
    failures = models.PositiveIntegerField(default=0, editable=False)
    away_until = models.DateTimeField(null=True, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    listed_at = models.DateTimeField(null=True, editable=False)
    unknown = models.TextField(blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "provisioning target"

    def __str__(self) -> str:
        return self.slug


class Provision(models.Model):
    """One entitlement of one subject on one target: one row for ever, however often it is given and taken.

    It is wanted while a live grant claims it, and no lock stops it. `turn` counts the intents, `owner` is whoever works
    on it until `lease_until`, and `next_try_at` says when somebody has to look next (empty: when something changes).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="provisions")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="+")
    user = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    subject_key = models.CharField(max_length=80, editable=False)
    entitlement = models.TextField()
    about = models.UUIDField(null=True, help_text="The server or role that it is of: a lock on that one stops it.")
    digest = models.CharField(max_length=80, editable=False, help_text="Of the entitlement's whole name.")
    state = models.CharField(max_length=8, choices=_STATES, default=State.NONE.value)
    changed_at = models.DateTimeField()
    turn = models.PositiveIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=500, blank=True)
    gave_up = models.BooleanField(default=False)
    alarmed = models.BooleanField(default=False)
    drifted = models.BooleanField(default=False)
    owner = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-changed_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["target", "subject_key", "digest"], name="jit_one_provision_per_effect"),
            models.CheckConstraint(
                condition=Q(owner=None, lease_until=None) | Q(owner__isnull=False, lease_until__isnull=False),
                name="jit_provision_owner_has_a_lease",
            ),
            models.CheckConstraint(
                condition=Q(owner=None) | Q(state__in=["granting", "revoking"]),
                name="jit_provision_intent_before_work",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["next_try_at"], name="jit_provision_due")]

    def __str__(self) -> str:
        return f"{self.entitlement} on {self.target.slug}"


class Claim(models.Model):
    """A grant wants a provision. Never changed; the grant's end is what ends it."""

    grant = models.ForeignKey("jit_requests.Grant", on_delete=models.PROTECT, related_name="claims")
    provision = models.ForeignKey(Provision, on_delete=models.PROTECT, related_name="claims")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["grant", "provision"], name="jit_one_claim_per_grant"),
        ]

    def __str__(self) -> str:
        return f"{self.grant_id} wants {self.provision_id}"
