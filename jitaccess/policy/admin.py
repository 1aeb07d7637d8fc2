"""Roles, who has them, what may be asked for and who approves, in the admin."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from jitaccess.audit.admin_base import ReadOnlyAdmin, ReadOnlyInline, actor_of, inert, pretty
from jitaccess.audit.admin_look import look_first
from jitaccess.audit.admin_preview import WithPreview
from jitaccess.kernel.errors import Invalid
from jitaccess.policy import admin_approvals, lock_admin, preview, services  # noqa: F401 - they register their pages
from jitaccess.policy.admin_forms import (
    DefaultRoleForm,
    RequestableForm,
    RoleForm,
    StandingBindingForm,
)
from jitaccess.policy.admin_versions import Versioned
from jitaccess.policy.compiler import requestable_facts
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import RoleFacts, Subject
from jitaccess.policy.models import (
    DefaultRole,
    Requestable,
    Role,
    RoleBinding,
    RoleVersion,
    ServerAccess,
)
from jitaccess.store.clock import JitNow

MOST_AT_ONCE = 200


class RoleVersionInline(ReadOnlyInline):
    model = RoleVersion
    fields = ("version", "saved_by", "saved_at")
    readonly_fields = fields


@admin.register(Role)
class RoleAdmin(Versioned, WithPreview):
    form = RoleForm
    list_display = ("name", "head")
    search_fields = ("name", "document")
    # Every change is a new version, which the service records.
    service_records_addition = service_records_change = True

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        document = form.cleaned_data["document"]
        saved = services.save_role(document=document, operator=actor_of(request), role=obj if change else None)
        obj.pk, obj.name, obj.head = saved.pk, saved.name, saved.head

    def impact_of(self, form: Any, obj: Any) -> preview.Impact:
        document = parse_role(form.cleaned_data["document"], version=(obj.head if obj else 0) + 1).facts
        return preview.of_role(document, _facts(obj) if obj else None)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return (RoleVersionInline,) if obj else ()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """The versions of a role that nobody ever had go with it; one that somebody had is protected, and says so."""
        to_delete, counts, lacking, protected = super().get_deleted_objects(objs, request)
        lacking -= {RoleVersion._meta.verbose_name, RoleBinding._meta.verbose_name}
        return to_delete, counts, lacking, protected


@admin.register(RoleVersion)
class RoleVersionAdmin(ReadOnlyAdmin):
    list_display = ("role_name", "version", "saved_by", "saved_at")
    list_select_related = ("role",)
    search_fields = ("role__name", "saved_by")
    uuid_fields = ("role",)
    ordering = ("-saved_at",)
    exclude = ("document",)
    readonly_fields = ("text",)

    @admin.display(description="role", ordering="role__name")
    def role_name(self, version: RoleVersion) -> str:
        return version.role.name

    @admin.display(description="document")
    def text(self, version: RoleVersion) -> SafeString:
        return inert(version.document)


def _facts(role: Role) -> RoleFacts | None:
    try:
        return replace(parse_role(role.document, version=role.head).facts, id=role.pk)
    except Invalid:  # a row that was never saved as a document
        return None


class BindingAdmin(WithPreview):
    """Bindings are made and ended; what was once a right is never edited or deleted."""

    list_select_related = ("role", "agent", "user", "team")
    actions = ("end",)
    service_records_addition = True
    origin = RoleBinding.Origin.STANDING

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleBinding]:
        rows: QuerySet[RoleBinding] = super().get_queryset(request).annotate(moment=JitNow())
        return rows

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm(f"jit_policy.change_{self.opts.model_name}"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        given = dict(form.cleaned_data)
        origin = RoleBinding.Origin.CEILING if given.pop("ceiling", False) else self.origin
        obj.pk = services.bind_role(**given, origin=origin, operator=actor_of(request)).pk

    def impact_of(self, form: Any, obj: Any) -> preview.Impact:
        given = form.cleaned_data
        whose = {name: row.pk for name in ("agent", "user", "team") if (row := given.get(name))}
        role = _facts(given["role"])
        assert role  # what was never saved as a document is not offered
        subject = Subject(**whose, everyone=given.get("everyone", ""))
        return preview.of_binding(role, subject, ceiling=bool(given.get("ceiling")))

    @admin.display
    def state(self, binding: Any) -> str:
        if binding.ended_at:
            return "ended"
        return "expired" if binding.expires_at and binding.expires_at <= binding.moment else "live"

    @admin.action(description="End selected bindings now", permissions=["end"])
    def end(self, request: HttpRequest, queryset: QuerySet[RoleBinding]) -> HttpResponse | None:
        operator, rows = actor_of(request), list(queryset[: MOST_AT_ONCE + 1])
        if len(rows) > MOST_AT_ONCE:
            messages.error(request, f"Select at most {MOST_AT_ONCE} at once: what comes of it has to be looked at.")
            return None
        impact = preview.of_end({row.pk for row in rows})
        if page := look_first(self, request, rows, impact, action="end", title="End these bindings now?"):
            return page
        self.each(
            request,
            rows,
            "Bindings ended",
            lambda binding: services.end_binding(binding=binding, operator=operator),
        )
        return None


@admin.register(DefaultRole)
class DefaultRoleAdmin(BindingAdmin):
    form = DefaultRoleForm
    origin = RoleBinding.Origin.DEFAULT
    list_display = ("everyone", "role", "starts_at", "state")
    fields = ("everyone", "role")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleBinding]:
        return super().get_queryset(request).filter(origin=RoleBinding.Origin.DEFAULT)


@admin.register(RoleBinding)
class RoleBindingAdmin(BindingAdmin):
    """Standing bindings, and granted ones to look at: those end when their grant is revoked."""

    ordering = ("-pk",)  # granted ones are as many as grants
    form = StandingBindingForm
    list_display = ("subject", "role", "origin", "starts_at", "expires_at", "state")
    list_filter = ("origin", ("ended_at", admin.EmptyFieldListFilter))
    search_fields = ("agent__name", "user__username", "team__name", "role__name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleBinding]:
        return super().get_queryset(request).exclude(origin=RoleBinding.Origin.DEFAULT)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ("role", "agent", "user", "team", "everyone", "expires_at")
        if obj is None:
            return ("role", "ceiling", *asked[1:])
        return (*asked, "origin", "origin_id", "starts_at", "ended_at", "granted")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_fields(request, obj) if obj else ()

    @admin.display(description="granted tools and their pins")
    def granted(self, binding: RoleBinding) -> SafeString:
        return inert(pretty(binding.tools))


@admin.register(ServerAccess)
class ServerAccessAdmin(WithPreview):
    list_display = ("server", "every_team")
    list_select_related = ("server",)
    search_fields = ("server__slug", "teams__name")
    filter_horizontal = ("teams",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("server",) if obj else ()

    def impact_of(self, form: Any, obj: Any) -> preview.Impact:
        given = form.cleaned_data
        server = obj.server_id if obj else given["server"].pk
        teams = None if given["every_team"] else frozenset(team.pk for team in given["teams"])
        return preview.of_access(server, teams)


@admin.register(Requestable)
class RequestableAdmin(WithPreview):
    form = RequestableForm
    list_display = ("__str__", "team", "arguments", "max_minutes", "max_uses", "policy")
    list_select_related = ("server", "team", "policy")
    list_filter = ("server", "team", "policy")
    search_fields = ("server__slug", "tools", "access", "database", "database_objects")

    def impact_of(self, form: Any, obj: Any) -> preview.Impact:
        return preview.of_requestable(requestable_facts(form.instance), requestable_facts(obj) if obj else None)
