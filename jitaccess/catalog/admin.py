"""Tools in the admin: what a reviewer has to see, and pinning exactly that. Servers are in server_admin."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from jitaccess.audit.admin_base import ReadOnlyAdmin, actor_of
from jitaccess.audit.admin_site import ATTENTION, Attention, listed, may_look
from jitaccess.catalog import server_admin, services
from jitaccess.catalog.flags import Neighbours
from jitaccess.catalog.models import AccessClass, ServerHealth, Tool
from jitaccess.catalog.review import STATE_NAMES, STATES, Review, state_of
from jitaccess.kernel.errors import JitAccessError

__all__ = ["ToolAdmin", "server_admin"]  # Django looks for admins in this module alone

BULK = 50


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, STATE_NAMES.get(state, state)) for state in STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(STATES[state]) if (state := self.value()) in STATES else queryset


class ReviewForm(forms.Form):
    """The digest says which definition was on the page: that one is pinned, or nothing is."""

    digest = forms.CharField(widget=forms.HiddenInput)
    access = forms.ChoiceField(choices=AccessClass.choices, label="This tool is")


@admin.register(Tool)
class ToolAdmin(ReadOnlyAdmin):
    list_display = ("name", "server", "access", "state")
    list_select_related = ("server",)
    list_filter = (StateFilter, "access", "server")
    search_fields = ("name", "server__slug")
    uuid_fields = ("pk", "server")
    actions = ("classify_as_read", "classify_as_write", "classify_as_destructive")

    def has_classify_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_catalog.change_tool"))

    @admin.display
    def state(self, tool: Tool) -> str:
        return STATE_NAMES.get(state_of(tool), state_of(tool))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The review page, in place of a form over the row."""
        writes = request.method == "POST"
        if not (self.has_classify_permission(request) if writes else self.has_view_permission(request)):
            raise PermissionDenied
        tool = self.get_object(request, object_id)
        if tool is None:
            raise Http404
        form = ReviewForm(request.POST or None)
        refusal = "Choose a class for the definition on this page." if writes else ""
        if writes and form.is_valid():
            refusal = self._classify(request, tool, form.cleaned_data["access"], form.cleaned_data["digest"])
            if not refusal:
                self.message_user(request, f"Classified {tool} as {form.cleaned_data['access']}.")
                return HttpResponseRedirect(reverse("admin:jit_catalog_tool_changelist"))
            tool.refresh_from_db()
        # A fresh form: after a refusal it carries the digest of what is shown now.
        fresh = ReviewForm(initial={"access": tool.access, "digest": tool.digest})
        return self._page(request, [tool], title=f"Review {tool}", form=fresh, refusal=refusal)

    def _classify(self, request: HttpRequest, tool: Tool, access: str, digest: str) -> str:
        """Why the service refused, or nothing."""
        try:
            services.classify_tool(tool=tool, access=AccessClass(access), digest=digest, operator=actor_of(request))
        except JitAccessError as error:
            return error.detail
        return ""

    def _bulk(self, request: HttpRequest, queryset: QuerySet[Tool], access: AccessClass) -> HttpResponse | None:
        """Two steps, so that a bulk classification too pins definitions that were on a page before somebody."""
        tools = list(queryset.select_related("server")[: BULK + 1])
        if len(tools) > BULK:
            messages.error(request, f"Select at most {BULK} tools at once: all of them have to be looked at.")
            return None
        if "confirmed" not in request.POST:
            return self._page(
                request,
                tools,
                title=f"Classify as {access.label}?",
                action=f"classify_as_{access}",
                access=access.label,
            )
        refusals = {
            tool: self._classify(request, tool, access, request.POST.get(f"digest-{tool.pk}", "?")) for tool in tools
        }
        for refusal in filter(None, refusals.values()):
            messages.error(request, f"Not classified: {refusal}")
        if done := sum(not refusal for refusal in refusals.values()):
            messages.success(request, f"Classified as {access.label}: {done}.")
        return None

    def _page(self, request: HttpRequest, tools: list[Tool], **more: object) -> HttpResponse:
        neighbours = Neighbours.read()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "reviews": [Review.of(tool, neighbours) for tool in tools],
            "may_classify": self.has_classify_permission(request),
            **more,
        }
        return TemplateResponse(request, "admin/jit_catalog/tool/review.html", context)

    @admin.action(description="Classify selected tools as read", permissions=["classify"])
    def classify_as_read(self, request: HttpRequest, queryset: QuerySet[Tool]) -> HttpResponse | None:
        return self._bulk(request, queryset, AccessClass.READ)

    @admin.action(description="Classify selected tools as write", permissions=["classify"])
    def classify_as_write(self, request: HttpRequest, queryset: QuerySet[Tool]) -> HttpResponse | None:
        return self._bulk(request, queryset, AccessClass.WRITE)

    @admin.action(description="Classify selected tools as destructive", permissions=["classify"])
    def classify_as_destructive(self, request: HttpRequest, queryset: QuerySet[Tool]) -> HttpResponse | None:
        return self._bulk(request, queryset, AccessClass.DESTRUCTIVE)


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_catalog.tool"):
        for state, said, tone in (
            ("changed", "Tools that changed since their review, and are refused until the next", "bad"),
            ("unreviewed", "Tools that nobody has reviewed", "wait"),
        ):
            count = Tool.objects.filter(STATES[state]).count()
            yield Attention(said, count, listed("jit_catalog.tool", f"state={state}"), tone)
    if may_look(request, "jit_catalog.server"):
        away = ServerHealth.objects.filter(ok=False, server__enabled=True).count()
        yield Attention(
            "Servers that do not answer", away, listed("jit_catalog.server", "health__ok=0&enabled=1"), "bad"
        )


ATTENTION.append(_attention)
