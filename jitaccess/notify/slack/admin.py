"""Slack in the admin: read-only."""

from __future__ import annotations

from collections.abc import Iterator

from django.contrib import admin
from django.http import HttpRequest

from jitaccess.audit.admin_base import ReadOnlyAdmin
from jitaccess.audit.admin_site import ATTENTION, Attention, listed, may_look
from jitaccess.notify.slack.models import LinkCode, SlackCard, SlackInbox, SlackLink


@admin.register(SlackLink)
class SlackLinkAdmin(ReadOnlyAdmin):
    list_display = ("user", "team", "slack_user", "slack_name", "linked_at", "ended_at")
    list_select_related = ("user",)
    list_filter = (("ended_at", admin.EmptyFieldListFilter),)
    search_fields = ("user__username", "slack_user")
    ordering = ("-linked_at",)


@admin.register(SlackCard)
class SlackCardAdmin(ReadOnlyAdmin):
    list_display = ("kind", "request", "place", "user", "due_at", "attempts", "dead", "error")
    list_select_related = ("user",)
    list_filter = ("kind", "dead")
    search_fields = ("place", "error")
    uuid_fields = ("pk", "request")
    ordering = ("-pk",)


@admin.register(SlackInbox)
class SlackInboxAdmin(ReadOnlyAdmin):
    list_display = ("kind", "slack_user", "received_at", "done_at", "attempts", "error")
    list_filter = ("kind", ("done_at", admin.EmptyFieldListFilter))
    search_fields = ("slack_user", "error")
    exclude = ("payload",)
    ordering = ("-received_at",)


@admin.register(LinkCode)
class LinkCodeAdmin(ReadOnlyAdmin):
    list_display = ("slack_user", "slack_name", "team", "expires_at", "used_at")
    exclude = ("hash",)
    ordering = ("-expires_at",)


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_slack.slackcard"):
        count = SlackCard.objects.filter(dead=True).count()
        yield Attention(
            "Slack messages that Slack refuses for good", count, listed("jit_slack.slackcard", "dead__exact=1"), "bad"
        )


ATTENTION.append(_attention)
