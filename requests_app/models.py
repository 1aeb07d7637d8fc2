from __future__ import annotations

import json
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from jitaccess.identity.models import Agent, User
from jitaccess.kernel.ids import uuid7
from requests_app.lifecycle import DecisionVerdict, EndReason, RequestKind, RequestStatus, Risk


def _choices(kind: type[RequestStatus | EndReason | DecisionVerdict | RequestKind | Risk]) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ")) for member in kind]


class AccessRequest(models.Model):
    """One immutable ask. What was asked never changes (a trigger refuses it); only how it ended is added, once.

    Besides that: how many reminders and escalations were told of, and which changes an approver asked for last.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="requests")
    owner = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", help_text="Of the agent, at filing")
    user = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="On whose behalf the agent asks"
    )
    issued_by = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="Who issued the token used"
    )
    filed_by = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="A person who filed it for the agent"
    )
    kind = models.CharField(
        max_length=11, choices=_choices(RequestKind), default=RequestKind.ACCESS, db_default=RequestKind.ACCESS
    )
    extends = models.ForeignKey("Grant", null=True, on_delete=models.PROTECT, related_name="extensions")
    supersedes = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="superseded_by")
    bundle = models.UUIDField(null=True, help_text="Requests filed together have the same.")
    principal_key = models.CharField(max_length=80, editable=False)
    client = models.CharField(max_length=200, blank=True)
    items = models.TextField(
        help_text="JSON: tools with pins and classes, exact calls, roles, privileges, as asked for."
    )
    risk = models.CharField(max_length=8, choices=_choices(Risk), default=Risk.MEDIUM, db_default=Risk.MEDIUM)
    reason = models.TextField()
    ticket = models.CharField(max_length=100, default="", db_default="")
    context = models.TextField(default="{}")
    seconds = models.PositiveIntegerField()
    max_uses = models.PositiveIntegerField(null=True, help_text="Calls the grant will be good for; empty: any number.")
    starts_at = models.DateTimeField(null=True, help_text="Empty: with the approval.")
    not_after = models.DateTimeField(null=True, help_text="It ends then at the latest, whenever it was approved.")
    max_total_seconds = models.PositiveIntegerField(null=True, help_text="How long a grant may last with extensions.")
    plan = models.TextField(
        default="{}", db_default="{}", help_text="JSON: the rule of the policy that applies, as pinned at filing."
    )
    policy_name = models.CharField(max_length=40)
    digest = models.CharField(max_length=80)
    dedupe_digest = models.CharField(max_length=80)
    created_at = models.DateTimeField()
    pending_until = models.DateTimeField()
    status = models.CharField(max_length=12, choices=_choices(RequestStatus), default=RequestStatus.PENDING)
    closed_at = models.DateTimeField(null=True)
    closed_by_name = models.CharField(max_length=150, blank=True)
    closing_note = models.TextField(blank=True)
    told = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="Reminders and escalations so far.")
    changes_at = models.DateTimeField(null=True)
    changes_by_name = models.CharField(max_length=150, default="", db_default="")
    changes_note = models.TextField(default="", db_default="", help_text="What an approver wants asked for instead.")

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
            models.CheckConstraint(
                condition=Q(kind="extension", extends__isnull=False) | (~Q(kind="extension") & Q(extends=None)),
                name="jit_extension_extends_a_grant",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["status", "pending_until"], name="jit_request_pending"),
            models.Index(fields=["agent", "created_at"], name="jit_request_filed"),
            models.Index(fields=["agent", "status", "id"], name="jit_request_of_agent"),
            models.Index(fields=["status", "id"], name="jit_request_status"),
            models.Index(fields=["created_at"], name="jit_request_created"),
            models.Index(fields=["bundle"], condition=Q(bundle__isnull=False), name="jit_request_bundle"),
        ]

    def __str__(self) -> str:
        return f"{self.agent}: {', '.join(self.tool_labels)}"

    @property
    def parsed_items(self) -> list[dict[str, Any]]:
        """By `kind`: "tools" and "call" {server, server_id, tools: [{id, name, pin, access}], arguments?},
        "role" {role, role_id, version}, "database" {database, objects, privileges}.
        """
        value: list[dict[str, Any]] = json.loads(self.items)
        return [{"kind": "tools", **item} for item in value]  # what was asked for before there were kinds

    @property
    def tool_labels(self) -> list[str]:
        """What is asked for, one name each: server/tool, server/tool#digest, role:name, database/object."""
        return [label for item in self.parsed_items for label in labels_of(item)]

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Every tool asked for, of all items: {"id", "name", "pin", "access"}."""
        return [tool for item in self.parsed_items for tool in item.get("tools", ())]

    @property
    def pending(self) -> bool:
        return self.status == RequestStatus.PENDING

    @property
    def url(self) -> str:
        """Where people read and decide it. Carries no authority."""
        return f"{settings.PUBLIC_URL}/requests/{self.pk}/"


def labels_of(item: dict[str, Any]) -> list[str]:
    """The names of what one item asks for."""
    match item["kind"]:
        case "role":
            return [f"role:{item['role']}"]
        case "database":
            return [f"{item['database']}/{name}" for name in item["objects"]]
        case "call":
            short = item["arguments"]["digest"].rpartition(":")[2][:8]
            return [f"{item['server']}/{tool['name']}#{short}" for tool in item["tools"]]
        case _:
            return [f"{item['server']}/{tool['name']}" for tool in item["tools"]]


def about_server(slug: str) -> str:
    """How a Concern says that something of this server is asked for."""
    return f"about:{slug}"


class Concern(models.Model):
    """Whom a request concerns, as pinned at filing, and who decided: those who may see it find it by this
    ("user:<uuid>", "team:<uuid>" …). And which servers it is about ("about:git").

    A filter for lists; standing has the last word.
    """

    id = models.BigAutoField(primary_key=True)
    request = models.ForeignKey(AccessRequest, on_delete=models.CASCADE, related_name="concerns", db_index=False)
    subject = models.CharField(max_length=60)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "request"], name="jit_request_concerns_once"),
        ]
        # The other way round, for lists that ask of each of a few thousand whether it concerns somebody.
        indexes: ClassVar = [models.Index(fields=["request", "subject"], name="jit_concern_request")]

    def __str__(self) -> str:
        return self.subject


class Decision(models.Model):
    """One person's approve or deny on one stage of one request. One live decision each; earlier ones are kept.

    `terms` is what an approval was narrowed to: the grant is what all counted approvals have in common.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request = models.ForeignKey(AccessRequest, on_delete=models.PROTECT, related_name="decisions")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    on_behalf_of = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="Whose delegate decided"
    )
    stage = models.PositiveSmallIntegerField(default=0, db_default=0)
    verdict = models.CharField(max_length=8, choices=_choices(DecisionVerdict))
    reason = models.TextField(blank=True)
    digest = models.CharField(max_length=80, help_text="The digest of the request that was decided upon.")
    terms = models.TextField(
        default="{}", db_default="{}", help_text="JSON: seconds, max_uses, items; what it was narrowed to."
    )
    terms_digest = models.CharField(max_length=80, default="", db_default="")
    channel = models.CharField(max_length=16)
    at = models.DateTimeField()
    live = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["request", "stage", "user"], condition=Q(live=True), name="jit_one_live_decision_per_person"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.verdict}"


class Grant(models.Model):
    """The outcome of an approved request, from activation to end. At most one per request.

    Only an approved extension (`extension`, the latest) moves `expires_at`, never past `latest`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request = models.OneToOneField(AccessRequest, on_delete=models.PROTECT, related_name="grant")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="grants")
    user = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    latest = models.DateTimeField(null=True, help_text="The end of its life, whatever extends it.")
    extension = models.ForeignKey(AccessRequest, null=True, on_delete=models.PROTECT, related_name="+")
    activated_at = models.DateTimeField(null=True, help_text="When its start was written down.")
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=16, choices=_choices(EndReason), blank=True)
    ended_by_name = models.CharField(max_length=150, blank=True)
    end_note = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(expires_at__gt=F("starts_at")), name="jit_grant_ends_after_start"),
            models.CheckConstraint(
                condition=Q(latest=None) | Q(expires_at__lte=F("latest")), name="jit_grant_ends_within_its_life"
            ),
            models.CheckConstraint(
                condition=Q(ended_at=None, end_reason="") | (Q(ended_at__isnull=False) & ~Q(end_reason="")),
                name="jit_grant_end_has_a_reason",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["ended_at", "expires_at"], name="jit_grant_due"),
            models.Index(fields=["id"], condition=Q(ended_at=None), name="jit_grant_live"),
            models.Index(fields=["request"], condition=Q(ended_at=None), name="jit_grant_live_of"),
        ]

    def __str__(self) -> str:
        return f"grant of {self.request}"


class Review(models.Model):
    """What has to be looked at afterwards: one use of a break-glass right, open until somebody has."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    grant = models.OneToOneField(Grant, on_delete=models.PROTECT, related_name="review")
    right_name = models.CharField(max_length=40, help_text="Of the break-glass right")
    team = models.UUIDField(help_text="Whose members review it")
    done_at = models.DateTimeField(null=True)
    done_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    note = models.TextField(blank=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(done_at=None, done_by=None) | Q(done_at__isnull=False, done_by__isnull=False),
                name="jit_review_is_done_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"review of {self.grant}"


# Django looks for models in this module alone.
from requests_app.provisioning.rows import Claim, Provision, Target  # noqa: E402, F401
