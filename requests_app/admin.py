"""Requests, decisions and grants in the admin: read-only. What happens to them happens through the services."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jitaccess.audit.admin_base import ReadOnlyAdmin, ReadOnlyInline, inert, pretty
from jitaccess.audit.admin_site import ATTENTION, Attention, listed, may_look
from jitaccess.kernel.durations import format_duration
from jitaccess.policy import admin_approvals
from requests_app import simulation
from requests_app.models import AccessRequest, Decision, Grant, Review
from requests_app.provisioning import admin as provisioning_admin  # noqa: F401 - Django looks for admins here alone

admin_approvals.PREVIEW = simulation.of_latest


class DecisionInline(ReadOnlyInline):
    model = Decision
    fields = ("at", "user", "verdict", "live", "channel", "reason")


@admin.register(AccessRequest)
class AccessRequestAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "agent", "user", "asked_for", "duration", "status", "closed_by_name")
    list_select_related = ("agent", "user")
    list_filter = ("status",)
    search_fields = ("agent__name", "user__username", "reason", "items", "closed_by_name")
    uuid_fields = ("pk", "agent", "user", "grant")
    exclude = ("items", "context", "plan")
    readonly_fields = ("id", "asked_items", "asked_plan", "given_context")
    inlines = (DecisionInline,)
    ordering = ("-pk",)  # which has an index, and is the order of filing

    @admin.display(description="tools")
    def asked_for(self, request: AccessRequest) -> str:
        return ", ".join(request.tool_labels)

    @admin.display(ordering="seconds")
    def duration(self, request: AccessRequest) -> str:
        return format_duration(request.seconds)

    @admin.display(description="items")
    def asked_items(self, request: AccessRequest) -> SafeString:
        return inert(pretty(request.items))

    @admin.display(description="approval plan")
    def asked_plan(self, request: AccessRequest) -> SafeString:
        return inert(pretty(request.plan))

    @admin.display(description="context")
    def given_context(self, request: AccessRequest) -> SafeString:
        return inert(pretty(request.context))


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin):
    list_display = ("at", "request", "user", "verdict", "live", "channel")
    list_select_related = ("request__agent", "user")
    list_filter = ("verdict", "live", "channel")
    search_fields = ("user__username", "request__agent__name", "reason")
    uuid_fields = ("pk", "request", "user")
    ordering = ("-pk",)


@admin.register(Grant)
class GrantAdmin(ReadOnlyAdmin):
    list_display = ("starts_at", "request", "user", "expires_at", "ended_at", "end_reason", "ended_by_name")
    list_select_related = ("request__agent", "user")
    list_filter = (("ended_at", admin.EmptyFieldListFilter), "end_reason")
    search_fields = ("agent__name", "user__username", "ended_by_name")
    uuid_fields = ("pk", "request", "agent", "user")
    ordering = ("-pk",)


@admin.register(Review)
class ReviewAdmin(ReadOnlyAdmin):
    """Uses of break-glass rights. Reviews are finished on the page /break-glass/, by those whose task it is."""

    list_display = ("right_name", "used_by", "agent", "used_at", "done_at", "done_by")
    list_select_related = ("grant__user", "grant__agent", "done_by")
    list_filter = (("done_at", admin.EmptyFieldListFilter), "right_name")
    search_fields = ("right_name", "grant__user__username", "grant__agent__name", "note")
    uuid_fields = ("pk", "grant", "grant__request")
    ordering = ("-pk",)

    @admin.display(ordering="grant__user__username")
    def used_by(self, review: Review) -> str:
        return review.grant.user.username if review.grant.user else ""

    @admin.display(ordering="grant__agent__name")
    def agent(self, review: Review) -> str:
        return review.grant.agent.name

    @admin.display(ordering="grant__starts_at")
    def used_at(self, review: Review) -> datetime:
        return review.grant.starts_at


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_requests.review"):
        count = Review.objects.filter(done_at=None).count()
        yield Attention(
            "Uses of break-glass rights to be reviewed", count, listed("jit_requests.review", "done_at__isempty=1")
        )


ATTENTION.append(_attention)
