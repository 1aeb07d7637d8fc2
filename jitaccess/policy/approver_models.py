"""Rows about people who approve, and who do without: policies, schedules, delegations, break-glass rights."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from jitaccess.identity.models import Team, User, slug_validator
from jitaccess.kernel.ids import uuid7


class ApprovalPolicy(models.Model):
    """Ordered rules: which requests are approved by whom, or by nobody. `head` is the version in force."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    document = models.TextField(
        default="", db_default="", help_text="YAML: kind, version, metadata, spec with ordered rules."
    )
    head = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name_plural = "approval policies"

    def __str__(self) -> str:
        return f"{self.name}@{self.head}"


class ApprovalPolicyVersion(models.Model):
    """What an approval policy said at one version, kept for ever."""

    policy = models.ForeignKey(ApprovalPolicy, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    document = models.TextField()
    saved_by = models.CharField(max_length=150)
    saved_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-version"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["policy", "version"], name="jit_policy_version_once")]

    def __str__(self) -> str:
        return f"{self.policy.name}@{self.version}"


class OnCallSchedule(models.Model):
    """Who is on call: taken from a rota of people in turn, or asked of a URL each minute."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    starts_at = models.DateTimeField(null=True, blank=True, help_text="When the first person's first turn began.")
    hours = models.PositiveIntegerField(
        default=168, validators=[MinValueValidator(1), MaxValueValidator(24 * 366)], help_text="How long a turn is."
    )
    rota = models.TextField(default="[]", blank=True, help_text='JSON: usernames in turn, ["anna", "bert"].')
    url = models.CharField(
        "URL", max_length=500, blank=True, help_text='Instead of a rota: answers {"on_call": ["anna"]} in JSON.'
    )
    fetched = models.TextField(default="[]", editable=False, help_text="Usernames, as the URL said last.")
    fetched_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(url="", starts_at__isnull=False) | (~Q(url="") & Q(rota="[]")),
                name="jit_schedule_is_a_rota_or_a_url",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Delegation(models.Model):
    """One person's approvals in the hands of another for a while; of nobody: away, and not asked."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    person = models.ForeignKey(User, on_delete=models.CASCADE, related_name="delegations")
    delegate = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="Empty: away, for nobody."
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    note = models.CharField(max_length=300, blank=True)
    made_by_name = models.CharField(max_length=150, editable=False)

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="jit_delegation_ends_after_start"),
            models.CheckConstraint(
                condition=Q(delegate=None) | ~Q(delegate=F("person")), name="jit_nobody_delegates_to_themselves"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["ends_at"], name="jit_delegation_ends")]

    def __str__(self) -> str:
        return f"{self.person}: {self.delegate or 'away'}"


class BreakGlass(models.Model):
    """A named right of people: to give an agent of theirs a role at once, told to others and reviewed afterwards."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    role = models.ForeignKey("Role", on_delete=models.PROTECT, related_name="break_glass")
    users = models.ManyToManyField(User, blank=True, related_name="+")
    teams = models.ManyToManyField(Team, blank=True, related_name="+")
    max_minutes = models.PositiveIntegerField(
        default=60, validators=[MinValueValidator(1), MaxValueValidator(8 * 60)], help_text="At most eight hours."
    )
    reviewers = models.ForeignKey(
        Team,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Who is told, and has to look at each use afterwards.",
    )
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = "break-glass right"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(max_minutes__gte=1, max_minutes__lte=480), name="jit_break_glass_is_short"
            ),
        ]

    def __str__(self) -> str:
        return self.name
