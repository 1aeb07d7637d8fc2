"""Approval policies, on-call schedules and delegations in the admin."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jitaccess.audit.admin_base import ReadOnlyAdmin, ReadOnlyInline, RecordedAdmin, actor_of, inert
from jitaccess.audit.admin_preview import WithPreview
from jitaccess.identity.models import User
from jitaccess.policy.admin_approval_forms import ApprovalPolicyForm, DelegationForm, OnCallScheduleForm
from jitaccess.policy.admin_versions import Versioned
from jitaccess.policy.approval.document import PolicyDocument, parse_policy
from jitaccess.policy.delegations import delegate, end_delegation
from jitaccess.policy.models import ApprovalPolicy, ApprovalPolicyVersion, Delegation, OnCallSchedule
from jitaccess.policy.people import members_of
from jitaccess.policy.policies import dead_ends, policy_warnings, save_policy
from jitaccess.policy.schedule_preview import ScheduleImpact, of_schedule
from jitaccess.store.clock import JitNow

# What a policy would have made of the latest requests (a requests_app.simulation.Simulation): set by who knows those.
PREVIEW: Callable[[PolicyDocument], Any] | None = None


@dataclass(frozen=True, slots=True)
class PolicyImpact:
    """`simulation` of the latest requests that were filed under it, None when nobody knows those; `refusals`: why it
    may not be saved at all.
    """

    warnings: tuple[str, ...]
    simulation: Any
    refusals: tuple[str, ...] = ()

    @property
    def stable(self) -> list[object]:
        return [list(self.warnings)]


class ApprovalPolicyVersionInline(ReadOnlyInline):
    model = ApprovalPolicyVersion
    fields = ("version", "saved_by", "saved_at")
    readonly_fields = fields


@admin.register(ApprovalPolicy)
class ApprovalPolicyAdmin(Versioned, WithPreview):
    impact_template = "admin/_policy_impact.html"
    form = ApprovalPolicyForm
    list_display = ("name", "head")
    search_fields = ("name", "document")
    # Every change is a new version, which the service records.
    service_records_addition = service_records_change = True

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        document = form.cleaned_data["document"]
        saved = save_policy(document=document, operator=actor_of(request), policy=obj if change else None)
        obj.pk, obj.name, obj.head = saved.pk, saved.name, saved.head
        for warning in policy_warnings(parse_policy(document)):
            messages.warning(request, warning)

    def impact_of(self, form: Any, obj: Any) -> PolicyImpact:
        document = parse_policy(form.cleaned_data["document"])
        simulation = PREVIEW(document) if PREVIEW else None
        return PolicyImpact(tuple(policy_warnings(document)), simulation, dead_ends(document, obj) if obj else ())

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return (ApprovalPolicyVersionInline,) if obj else ()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """The versions of a policy go with it; one that something can be asked for under is protected, and says so."""
        to_delete, counts, lacking, protected = super().get_deleted_objects(objs, request)
        lacking -= {ApprovalPolicyVersion._meta.verbose_name}
        return to_delete, counts, lacking, protected


@admin.register(ApprovalPolicyVersion)
class ApprovalPolicyVersionAdmin(ReadOnlyAdmin):
    list_display = ("policy_name", "version", "saved_by", "saved_at")
    list_select_related = ("policy",)
    search_fields = ("policy__name", "saved_by")
    uuid_fields = ("policy",)
    ordering = ("-saved_at",)
    exclude = ("document",)
    readonly_fields = ("text",)

    @admin.display(description="policy", ordering="policy__name")
    def policy_name(self, version: ApprovalPolicyVersion) -> str:
        return version.policy.name

    @admin.display(description="document")
    def text(self, version: ApprovalPolicyVersion) -> SafeString:
        return inert(version.document)


@admin.register(OnCallSchedule)
class OnCallScheduleAdmin(WithPreview):
    impact_template = "admin/_schedule_impact.html"
    form = OnCallScheduleForm
    list_display = ("name", "kind", "hours", "fetched_at")
    search_fields = ("name", "rota", "url")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Policies call it by its name.
        return ("name", "on_call", "fetched_at") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ("name", "rota", "starts_at", "hours", "url")
        return (*asked, "on_call", "fetched_at") if obj else asked

    def impact_of(self, form: Any, obj: Any) -> ScheduleImpact:
        return of_schedule(form.instance, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if "url" in form.changed_data:  # what the old one said is not what the new one says
            OnCallSchedule.objects.filter(pk=obj.pk).update(fetched="[]", fetched_at=None)

    @admin.display
    def kind(self, schedule: OnCallSchedule) -> str:
        return "URL" if schedule.url else "rota"

    @admin.display(description="on call now")
    def on_call(self, schedule: OnCallSchedule) -> str:
        ref = f"schedule:{schedule.pk}"
        names = User.objects.filter(pk__in=members_of([ref])[ref]).values_list("username", flat=True)
        return ", ".join(sorted(names)) or "nobody"


@admin.register(Delegation)
class DelegationAdmin(RecordedAdmin):
    """One's own are made here; anybody's can be ended. What was once handed over is never edited or deleted."""

    form = DelegationForm
    list_display = ("person", "delegate", "starts_at", "ends_at", "state", "made_by_name")
    list_select_related = ("person", "delegate")
    list_filter = (("ended_at", admin.EmptyFieldListFilter),)
    search_fields = ("person__username", "delegate__username", "note")
    fields = ("delegate", "starts_at", "ends_at", "note")
    actions = ("end",)
    service_records_addition = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delegation]:
        rows: QuerySet[Delegation] = super().get_queryset(request).annotate(moment=JitNow())
        return rows

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("person", *self.fields, "ended_at", "made_by_name") if obj else self.fields

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_policy.change_delegation"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        values = form.cleaned_data
        made = delegate(
            person=obj.person,
            to=values["delegate"],
            starts_at=values["starts_at"],
            ends_at=values["ends_at"],
            note=values["note"],
            operator=actor_of(request),
        )
        obj.pk = made.pk

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.person = request.user
        return form

    @admin.display
    def state(self, row: Any) -> str:
        if row.ended_at:
            return "ended"
        if row.ends_at <= row.moment:
            return "over"
        return "in force" if row.starts_at <= row.moment else "to come"

    @admin.action(description="End selected delegations now", permissions=["end"])
    def end(self, request: HttpRequest, queryset: QuerySet[Delegation]) -> None:
        operator = actor_of(request)
        self.each(request, queryset, "Delegations ended", lambda row: end_delegation(delegation=row, operator=operator))
