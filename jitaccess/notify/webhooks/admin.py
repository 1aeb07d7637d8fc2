"""Webhooks in the admin: read-only. They have pages of their own."""

from __future__ import annotations

from collections.abc import Iterator

from django.contrib import admin
from django.http import HttpRequest

from jitaccess.audit.admin_base import ReadOnlyAdmin
from jitaccess.audit.admin_site import ATTENTION, Attention, listed, may_look
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    list_display = ("name", "team", "enabled", "failing_since", "disabled_why")
    list_select_related = ("team",)
    list_filter = ("enabled",)
    search_fields = ("name",)
    exclude = ("sealed", "sealed_before", "url")


@admin.register(HookDelivery)
class HookDeliveryAdmin(ReadOnlyAdmin):
    list_display = ("event", "endpoint", "attempts", "due_at", "delivered_at", "gave_up_at", "status")
    list_select_related = ("endpoint",)
    list_filter = ("endpoint", ("delivered_at", admin.EmptyFieldListFilter))
    search_fields = ("event",)
    uuid_fields = ("pk", "entry")
    ordering = ("-pk",)


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_webhooks.endpoint"):
        count = Endpoint.objects.filter(enabled=False).count()
        yield Attention(
            "Webhooks that are switched off", count, listed("jit_webhooks.endpoint", "enabled__exact=0"), "bad"
        )


ATTENTION.append(_attention)
