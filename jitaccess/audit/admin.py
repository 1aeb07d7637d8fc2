"""The ledger in the admin: read-only."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jitaccess.audit import admin_site
from jitaccess.audit.admin_base import ReadOnlyAdmin, inert, pretty
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, Leaf

admin_site.set_up()


class EventFilter(admin.SimpleListFilter):
    """From the vocabulary: Django's own filter would read the whole ledger for its distinct values."""

    title = "event"
    parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(event.value, event.value) for event in Event]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        return queryset.filter(event=self.value()) if self.value() else queryset


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(outcome.value, outcome.value) for outcome in Outcome if outcome]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        return queryset.filter(outcome=self.value()) if self.value() else queryset


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ("at", "event", "outcome", "agent_name", "user_name", "server_name", "tool")
    list_filter = (EventFilter, OutcomeFilter)
    search_fields = ("agent_name", "user_name", "server_name", "tool")
    search_help_text = "A name, or the whole id of an entry, request, grant, call, agent or user."
    uuid_fields = ("pk", "request", "grant", "call", "agent", "user")
    exclude = ("data",)
    readonly_fields = ("uid", "details")

    @admin.display(description="data")
    def details(self, entry: Entry) -> SafeString:
        return inert(pretty(entry.data))


@admin.register(Leaf)
class LeafAdmin(ReadOnlyAdmin):
    list_display = ("seq", "entry", "leaf_hash")
    list_select_related = ("entry",)
    search_fields = ("=leaf_hash",)
    uuid_fields = ("entry",)
    ordering = ("-seq",)
