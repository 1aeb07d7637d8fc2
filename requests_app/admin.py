"""Requests, decisions and grants in the admin: read-only. What happens to them happens through the services."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from jitaccess.audit.admin_base import ReadOnlyAdmin, ReadOnlyInline, inert, pretty
from jitaccess.kernel.durations import format_duration
from requests_app.models import AccessRequest, Decision, Grant


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
    exclude = ("items", "context", "groups")
    readonly_fields = ("id", "asked_items", "asked_groups", "given_context")
    inlines = (DecisionInline,)

    @admin.display(description="tools")
    def asked_for(self, request: AccessRequest) -> str:
        return ", ".join(request.tool_labels)

    @admin.display(ordering="seconds")
    def duration(self, request: AccessRequest) -> str:
        return format_duration(request.seconds)

    @admin.display(description="items")
    def asked_items(self, request: AccessRequest) -> SafeString:
        return inert(pretty(request.items))

    @admin.display(description="approver groups")
    def asked_groups(self, request: AccessRequest) -> SafeString:
        return inert(pretty(request.groups))

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
    ordering = ("-at",)


@admin.register(Grant)
class GrantAdmin(ReadOnlyAdmin):
    list_display = ("starts_at", "request", "user", "expires_at", "ended_at", "end_reason", "ended_by_name")
    list_select_related = ("request__agent", "user")
    list_filter = (("ended_at", admin.EmptyFieldListFilter), "end_reason")
    search_fields = ("agent__name", "user__username", "ended_by_name")
    uuid_fields = ("pk", "request", "agent", "user")
