"""Notices in the admin: read-only."""

from __future__ import annotations

from django.contrib import admin

from jitaccess.audit.admin_base import ReadOnlyAdmin
from jitaccess.notify.models import Delivery, Preference


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("event", "user", "channel", "attempts", "due_at", "sent_at", "error")
    list_select_related = ("user",)
    list_filter = ("channel", ("sent_at", admin.EmptyFieldListFilter))
    search_fields = ("event", "user__username", "error")
    uuid_fields = ("pk", "entry", "request")
    ordering = ("-due_at",)


@admin.register(Preference)
class PreferenceAdmin(ReadOnlyAdmin):
    list_display = ("group", "channel", "on", "user", "team")
    list_select_related = ("user", "team")
    list_filter = ("group", "channel", "on")
    search_fields = ("user__username", "team__name")
