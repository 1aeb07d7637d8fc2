"""Servers and their credentials in the admin. How a program is started is not here: that is the operator's file."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets, unquote
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from jitaccess.audit.admin_base import RecordedAdmin, actor_of
from jitaccess.audit.admin_preview import WithPreview
from jitaccess.catalog import services
from jitaccess.catalog.credentials import checked_header, remove_credential, set_credential
from jitaccess.catalog.http_servers import add_http_server, checked_url, forget_other_origins
from jitaccess.catalog.models import Server, ServerCredential, Transport
from jitaccess.catalog.options import NAMES as OPTIONS
from jitaccess.catalog.server_preview import OptionsImpact, of_options
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.text import visible

if TYPE_CHECKING:
    FormBase = forms.ModelForm[Any]
else:
    FormBase = forms.ModelForm

_ONLY_HTTP = (
    "The MCP endpoint, https://…/mcp. Only servers over HTTP are added here. A server that is a program is started by "
    "the gateway, so only the operator describes it, in the servers file: jitaccess servers add NAME -- COMMAND."
)
_TRUSTED = (
    "From now on nobody looks at what this server offers before agents do: a tool that turns malicious is in force at "
    "once. Each change is recorded as tool.accepted; only what has hidden characters, escape sequences, "
    "look-alike names or words meant for models still waits for a review."
)


def _secret(*, required: bool) -> forms.CharField:
    # Never rendered back, and not offered the reader's own password by the browser.
    widget = forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}, render_value=False)
    text = "Stored encrypted, and never shown again. For a bearer token write: Bearer TOKEN"
    return forms.CharField(
        label="Credential", max_length=8192, required=required, strip=False, widget=widget, help_text=text
    )


class ServerForm(FormBase):
    """A server that is there. Its address is judged before anything connects to it."""

    def clean_url(self) -> str:
        try:
            return checked_url(self.cleaned_data["url"])
        except JitAccessError as error:
            raise forms.ValidationError(error.detail, code=error.code) from None


class NewServerForm(ServerForm):
    """A new one, with the first of its credentials."""

    header = forms.CharField(max_length=100, initial="Authorization", help_text="The header the credential is sent in.")
    credential = _secret(required=False)

    def clean_header(self) -> str:
        try:
            return checked_header(self.cleaned_data["header"])
        except JitAccessError as error:
            raise forms.ValidationError(error.detail, code=error.code) from None


@admin.register(Server)
class ServerAdmin(WithPreview):
    impact_template = "admin/_server_impact.html"
    list_display = ("slug", "enabled", "reached_at", "asked")
    list_filter = ("enabled", "transport", ("health__ok", admin.BooleanFieldListFilter))
    list_select_related = ("health",)
    search_fields = ("slug", "description", "url")
    actions = ("disable", "enable")
    service_records_addition = True

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("slug", "url", "header", "credential", "era", "shared", "description", "instructions")
        how = ("url", "credentials", "era", "shared") if obj.transport == Transport.HTTP else ("reached_at",)
        return ("slug", *how, "asked", "description", "instructions", *OPTIONS, "enabled")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Roles and clients name a server by its slug; renaming one would move rights to another."""
        return ("slug", "enabled", "reached_at", "asked", "credentials") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = NewServerForm if obj is None else ServerForm
        return super().get_form(request, obj, change, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "url" and field is not None:
            field.required = True
            field.help_text = _ONLY_HTTP
            field.widget.attrs["class"] = "vLargeTextField"
        return field

    def render_change_form(self, request: Any, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().render_change_form(request, context | {"look_label": "Save"}, *args, **kwargs)

    def impact_of(self, form: Any, obj: Any) -> OptionsImpact:
        return of_options(obj, {name: form.cleaned_data[name] for name in OPTIONS})

    def _held(self, request: Any, object_id: str | None) -> Any:
        """Only what it does to calls is worth a second look: a new server has none."""
        obj = self.get_object(request, unquote(object_id)) if object_id else None
        if obj is None or not self.has_change_permission(request, obj):
            return None
        fields = flatten_fieldsets(self.get_fieldsets(request, obj))
        form = self.get_form(request, obj, change=True, fields=fields)(request.POST, instance=obj)
        return super()._held(request, object_id) if set(OPTIONS) & set(form.changed_data) else None

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        operator = actor_of(request)
        if not change:
            data = dict(form.cleaned_data)
            header, secret = data.pop("header"), data.pop("credential")
            headers = {header: secret} if secret else {}
            server = add_http_server(**data, headers=headers, operator=operator)
            obj.pk, obj.transport = server.pk, server.transport
            return
        if "url" in form.changed_data:
            before = Server.objects.select_for_update().get(pk=obj.pk)
            removed = forget_other_origins(server=before, url=obj.url, operator=operator)
            if removed:
                text = f"This is another address, so what was given for the old one was removed: {', '.join(removed)}."
                messages.warning(request, text)
        if "accept_definitions" in form.changed_data and obj.accept_definitions:
            messages.warning(request, _TRUSTED)
        super().save_model(request, obj, form, change)

    @admin.display(description="reached at")
    def reached_at(self, server: Server) -> str:
        return server.url or "what the operator's file says"

    @admin.display(description="when last asked")
    def asked(self, server: Server) -> str:
        health = getattr(server, "health", None)
        if health is None:
            return "not asked yet"
        why = visible(health.detail, limit=500)
        said = f"reachable, {health.era}, {health.tools} tools" if health.ok else f"not reachable: {why}"
        return f"{said} ({health.checked_at:%Y-%m-%d %H:%M} UTC)"

    @admin.display(description="credentials")
    def credentials(self, server: Server) -> SafeString:
        rows = [
            (reverse("admin:jit_catalog_servercredential_change", args=[row.pk]), row)
            for row in server.credentials.all()
        ]
        listed = format_html_join(
            "", '<li><a href="{}">{}</a>: {}</li>', ((url, row.header, state_of(row)) for url, row in rows)
        )
        add = reverse("admin:jit_catalog_servercredential_add")
        return format_html(
            '<ul class="given">{}<li><a href="{}?server={}">Add a credential</a></li></ul>', listed, add, server.pk
        )

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


def state_of(credential: ServerCredential) -> str:
    """All that is ever shown of one."""
    return f"set, key {credential.key}, {credential.updated_at:%Y-%m-%d}"


class CredentialForm(FormBase):
    credential = _secret(required=True)


@admin.register(ServerCredential)
class ServerCredentialAdmin(RecordedAdmin):
    form = CredentialForm
    list_display = ("server", "header", "state")
    list_display_links = ("server", "header")
    list_select_related = ("server",)
    search_fields = ("server__slug", "header")
    service_records_addition = service_records_change = True

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("server", "header", "state", "credential") if obj else ("server", "header", "credential")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("server", "header", "state") if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = Server.objects.filter(transport=Transport.HTTP)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    @admin.display(description="now")
    def state(self, credential: ServerCredential) -> str:
        return state_of(credential)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        value = form.cleaned_data["credential"]
        saved = set_credential(server=obj.server, header=obj.header, value=value, operator=actor_of(request))
        obj.pk = saved.pk

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        remove_credential(server=obj.server, header=obj.header, operator=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)
