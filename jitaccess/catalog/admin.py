"""Servers and their tools in the admin. How a server is started is not here: that is the operator's file."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse

from jitaccess.audit.admin_base import ReadOnlyAdmin, RecordedAdmin, actor_of, pretty, refuse_to_form
from jitaccess.catalog import services
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.text import has_hidden, visible

# Beyond this a definition cannot be shown whole, and what cannot be shown whole cannot be reviewed here.
SHOWN = 200_000
STATES = {
    "unreviewed": Q(present=True, pin=""),
    "changed": Q(present=True) & ~Q(pin="") & ~Q(pin=F("digest")),
    "reviewed": Q(present=True, pin=F("digest")),
    "gone": Q(present=False),
}
STATE_NAMES = {"changed": "changed since review"}


@admin.register(Server)
class ServerAdmin(RecordedAdmin):
    list_display = ("slug", "description", "enabled")
    list_filter = ("enabled",)
    search_fields = ("slug", "description")
    fields = ("slug", "description", "instructions")
    actions = ("disable", "enable")
    service_records_addition = True

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fields, "enabled") if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Roles and clients name a server by its slug; renaming one would move rights to another."""
        return ("slug", "enabled") if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            obj.pk = services.register_server(**form.cleaned_data, operator=actor_of(request)).pk

    @admin.action(description="Disable selected servers", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            queryset,
            "Servers disabled",
            lambda server: services.set_server_enabled(server=server, enabled=False, operator=operator),
        )

    @admin.action(description="Enable selected servers", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            queryset,
            "Servers enabled",
            lambda server: services.set_server_enabled(server=server, enabled=True, operator=operator),
        )


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

    def classify(self, tool: Tool, request: HttpRequest) -> bool:
        """False with an error on the form when the service refuses."""
        access = AccessClass(self.cleaned_data["access"])
        try:
            services.classify_tool(
                tool=tool, access=access, digest=self.cleaned_data["digest"], operator=actor_of(request)
            )
        except JitAccessError as error:
            refuse_to_form(self, error)
            return False
        return True


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
        if not tool.present:
            return "gone"
        if not tool.pin:
            return "unreviewed"
        return "changed since review" if tool.quarantined else "reviewed"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The review page stands where other models have their form."""
        if not (self.has_view_permission(request) if request.method == "GET" else self.has_classify_permission(request)):
            raise PermissionDenied
        tool = self.get_object(request, object_id)
        if tool is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        form = ReviewForm(request.POST or None, initial={"access": tool.access, "digest": tool.digest})
        if request.method == "POST" and form.is_valid() and form.classify(tool, request):
            self.message_user(request, f"{tool} is now classified as {form.cleaned_data['access']}.")
            return HttpResponseRedirect(reverse("admin:jit_catalog_tool_changelist"))
        return self._page(request, [get_object_or_404(Tool, pk=tool.pk)], title=f"Review {tool}", form=form)
