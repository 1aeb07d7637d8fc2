from __future__ import annotations

import json
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from jitaccess.identity.models import Agent, User
from jitaccess.kernel.ids import uuid7
from requests_app.lifecycle import DecisionVerdict, EndReason, RequestStatus


def _choices(kind: type[RequestStatus | EndReason | DecisionVerdict]) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ")) for member in kind]


class AccessRequest(models.Model):
    """One immutable ask. What was asked never changes (a trigger refuses it); only how it ended is added, once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="requests")
    owner = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", help_text="Of the agent, at filing")
    user = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="On whose behalf the agent asks"
    )
    issued_by = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="Who issued the token used"
    )
    principal_key = models.CharField(max_length=80, editable=False)
    client = models.CharField(max_length=200, blank=True)
    items = models.TextField(help_text="JSON: tools by server, each with its pin and class as asked for.")
    reason = models.TextField()
    context = models.TextField(default="{}")
    seconds = models.PositiveIntegerField()
    max_uses = models.PositiveIntegerField(null=True, help_text="Calls the grant will be good for; empty: any number.")
    groups = models.TextField(help_text="JSON: the approver groups and quorums as pinned at filing.")
    policy_name = models.CharField(max_length=40)
    digest = models.CharField(max_length=80)
    dedupe_digest = models.CharField(max_length=80)
    created_at = models.DateTimeField()
    pending_until = models.DateTimeField()
    status = models.CharField(max_length=12, choices=_choices(RequestStatus), default=RequestStatus.PENDING)
    closed_at = models.DateTimeField(null=True)
    closed_by_name = models.CharField(max_length=150, blank=True)
    closing_note = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(status="pending", closed_at=None) | (~Q(status="pending") & Q(closed_at__isnull=False)),
                name="jit_request_closed_when_not_pending",
            ),
            models.CheckConstraint(
                condition=Q(pending_until__gt=F("created_at")), name="jit_request_deadline_after_filing"
            ),
            models.UniqueConstraint(
                fields=["principal_key", "dedupe_digest"],
                condition=Q(status="pending"),
                name="jit_one_pending_request_per_ask",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["status", "pending_until"], name="jit_request_pending"),
            models.Index(fields=["agent", "created_at"], name="jit_request_filed"),
        ]

    def __str__(self) -> str:
        return f"{self.agent}: {', '.join(self.tool_labels)}"

    @property
    def parsed_items(self) -> list[dict[str, Any]]:
        """[{"server": slug, "server_id": uuid, "tools": [{"id", "name", "pin", "access"}]}]"""
        value: list[dict[str, Any]] = json.loads(self.items)
        return value

    @property
    def tool_labels(self) -> list[str]:
        return [f"{item['server']}/{tool['name']}" for item in self.parsed_items for tool in item["tools"]]

    @property
    def pending(self) -> bool:
        return self.status == RequestStatus.PENDING

    @property
    def url(self) -> str:
        """Where people read and decide it. Carries no authority."""
        return f"{settings.PUBLIC_URL}/requests/{self.pk}/"


class Decision(models.Model):
    """One person's approve or deny on one request. One live decision per person; earlier ones are kept."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request = models.ForeignKey(AccessRequest, on_delete=models.PROTECT, related_name="decisions")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    verdict = models.CharField(max_length=8, choices=_choices(DecisionVerdict))
    reason = models.TextField(blank=True)
    digest = models.CharField(max_length=80, help_text="The digest of the request that was decided upon.")
    channel = models.CharField(max_length=16)
    at = models.DateTimeField()
    live = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["request", "user"], condition=Q(live=True), name="jit_one_live_decision_per_person"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.verdict}"


class Grant(models.Model):
    """The outcome of an approved request, from activation to end. At most one per request."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request = models.OneToOneField(AccessRequest, on_delete=models.PROTECT, related_name="grant")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="grants")
    user = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=16, choices=_choices(EndReason), blank=True)
    ended_by_name = models.CharField(max_length=150, blank=True)
    end_note = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(expires_at__gt=F("starts_at")), name="jit_grant_ends_after_start"),
            models.CheckConstraint(
                condition=Q(ended_at=None, end_reason="") | (Q(ended_at__isnull=False) & ~Q(end_reason="")),
                name="jit_grant_end_has_a_reason",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["ended_at", "expires_at"], name="jit_grant_due")]

    def __str__(self) -> str:
        return f"grant of {self.request}"
