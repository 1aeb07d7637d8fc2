"""People, teams, agents and their access tokens in the admin."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import allauth.account.admin  # noqa: F401 - registers what is taken out below
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import UserChangeForm
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from jitaccess.audit.admin_base import ReadOnlyAdmin, RecordedAdmin, actor_of, record_configuration
from jitaccess.audit.recorder import Actor
from jitaccess.identity import services
from jitaccess.identity.factors import reset_factors
from jitaccess.identity.models import AccessToken, Agent, Team, User
from jitaccess.identity.signed_in import end_sessions
from jitaccess.kernel.errors import Forbidden, JitAccessError
from jitaccess.store.clock import JitNow

if TYPE_CHECKING:
    UserAdminBase = UserAdmin[User]
    PersonFormBase = UserChangeForm[User]
else:
    UserAdminBase, PersonFormBase = UserAdmin, UserChangeForm

# A manager may approve what this person's agents ask for.
PRIVILEGES = ("is_staff", "is_superuser", "groups", "user_permissions", "manager")
# Who can change these of somebody can become them.
CREDENTIALS = ("username", "email")

admin.site.unregister(Group)
# Nobody signs in by e-mail here, and those pages would change accounts without a record.
admin.site.unregister([EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken, UserSession])


@admin.register(Group)
class RecordedGroupAdmin(RecordedAdmin, GroupAdmin):
    """Groups give permissions, so their changes are recorded too."""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if _is_superuser(request) else ("permissions",)


class PersonForm(PersonFormBase):
    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        flags = {"is_active", "is_staff", "is_superuser"}.intersection(self.changed_data)
        if any(not values.get(flag) for flag in flags):
            try:
                services.ensure_admin_left(without=[self.instance.pk])
            except JitAccessError as error:
                raise forms.ValidationError(error.detail, code=error.code) from error
        return values


@admin.register(User)
class PersonAdmin(RecordedAdmin, UserAdminBase):
    form = PersonForm
    list_display = ("username", "email", "first_name", "last_name", "is_active", "is_staff", "is_superuser")
    fieldsets = (*(UserAdmin.fieldsets or ()), ("Approvals", {"fields": ("manager",)}))
    actions = ("sign_out_everywhere", "reset_second_factor")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Only who holds every right may give rights away, or the name that others' rights are held by."""
        dates = ("last_login", "date_joined")
        if _is_superuser(request):
            return dates
        return (*dates, *PRIVILEGES, *CREDENTIALS) if obj else (*dates, *PRIVILEGES)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Setting a superuser's password is being that superuser."""
        return super().has_change_permission(request, obj) and (
            obj is None or not obj.is_superuser or _is_superuser(request)
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and self.has_change_permission(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        to_delete, counts, lacking, protected = super().get_deleted_objects(objs, request)
        try:
            with transaction.atomic():
                services.ensure_admin_left(without=[person.pk for person in objs])
        except JitAccessError as error:
            protected = [*protected, error.detail]
        return to_delete, counts, lacking, protected

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, User.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Looked at once more under the lock: somebody else may have gone since the page was made."""
        with transaction.atomic():
            services.ensure_admin_left(without=queryset.values_list("pk", flat=True))
            super().delete_queryset(request, queryset)

    @admin.action(description="Sign selected people out everywhere", permissions=["change"])
    def sign_out_everywhere(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            self._changeable(request, queryset),
            "People signed out",
            lambda person: end_sessions(user=person, actor=operator, why="an admin"),
        )

    @admin.action(description="Remove all second factors of selected people, and sign them out", permissions=["reset"])
    def reset_second_factor(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            self._changeable(request, queryset),
            "Second factors removed",
            lambda person: _reset_of_another(person, operator),
        )

    def has_reset_permission(self, request: HttpRequest) -> bool:
        """As for passwords: whoever can take a second factor away is nearer to being that person."""
        return _is_superuser(request)

    def _changeable(self, request: HttpRequest, queryset: QuerySet[User]) -> list[User]:
        return [person for person in queryset if self.has_change_permission(request, person)]

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:  # noqa: A002 - Django's name
        """Django writes a password outside `save_related` and without a transaction.

        For superusers: others change their own where the old one is asked for.
        """
        if not _is_superuser(request):
            raise PermissionDenied
        try:
            with transaction.atomic():
                person = self.get_object(request, id)
                if person and request.POST.get("usable_password") == "false":
                    services.ensure_way_in(without_password_of=person.pk)
                before = person.password if person else ""
                response = super().user_change_password(request, id, form_url)
                if person and User.objects.values_list("password", flat=True).get(pk=person.pk) != before:
                    record_configuration(request, person, "changed", {"password": "changed"})
        except JitAccessError as error:
            messages.error(request, error.detail)
            return HttpResponseRedirect(request.get_full_path())
        return response


@admin.register(Team)
class TeamAdmin(RecordedAdmin):
    list_display = ("name",)
    search_fields = ("name",)
    filter_horizontal = ("members",)


class IssueTokenForm(forms.Form):
    user = forms.ModelChoiceField(
        User.objects.none(),
        required=False,
        label="On behalf of",
        empty_label="nobody: the agent itself",
        help_text="The agent's owner and users.",
    )
    minutes = forms.IntegerField(min_value=1, max_value=services.MAX_TOKEN_SECONDS // 60, initial=60)

    def __init__(self, *args: Any, agent: Agent, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent = agent
        allowed = User.objects.filter(Q(pk=agent.owner_id) | Q(usable_agents=agent), is_active=True)
        self.fields["user"].queryset = allowed.distinct()  # type: ignore[attr-defined]  # a ModelChoiceField

    def issue(self, request: HttpRequest) -> tuple[str, AccessToken] | None:
        """None with an error on the form when the service refuses."""
        values = self.cleaned_data
        try:
            return services.issue_token(
                agent=self.agent, user=values["user"], ttl=values["minutes"] * 60, operator=actor_of(request)
            )
        except JitAccessError as error:
            self.add_error(None, forms.ValidationError(error.detail, code=error.code))
            return None


@admin.register(Agent)
class AgentAdmin(RecordedAdmin):
    list_display = ("name", "enabled", "owner", "team", "description")
    list_select_related = ("owner", "team")
    list_filter = ("enabled", "team")
    search_fields = ("name", "description", "owner__username")
    fields = ("name", "description", "owner", "team", "users")
    filter_horizontal = ("users",)
    actions = ("disable", "enable")
    service_records_addition = True

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fields, "labels", "enabled", "tokens") if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("enabled", "tokens") if obj else ()

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.issue_token)
        return [path("<uuid:agent_id>/issue-token/", view, name="jit_identity_agent_token"), *super().get_urls()]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            obj.pk = services.create_agent(**form.cleaned_data, operator=actor_of(request)).pk

    def has_token_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_identity.add_accesstoken"))

    @admin.display(description="access tokens")
    def tokens(self, agent: Agent) -> str:
        issue = reverse("admin:jit_identity_agent_token", args=[agent.pk])
        listed = reverse("admin:jit_identity_accesstoken_changelist")
        return format_html(
            '<a href="{}">Issue a token</a> · <a href="{}?agent__id__exact={}">Tokens of this agent</a>',
            issue,
            listed,
            agent.pk,
        )

    def issue_token(self, request: HttpRequest, agent_id: UUID) -> HttpResponse:
        """The token is in the body of this one response and nowhere else: no redirect, no message, no session."""
        if not self.has_token_permission(request):
            raise PermissionDenied
        agent = get_object_or_404(Agent, pk=agent_id)
        form = IssueTokenForm(request.POST or None, agent=agent)
        issued = form.issue(request) if request.method == "POST" and form.is_valid() else None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": agent,
            "title": f"Issue a token of {agent.name}",
            "form": form,
            "value": issued[0] if issued else "",
            "token": issued[1] if issued else None,
        }
        return TemplateResponse(request, "admin/jit_identity/agent/issue_token.html", context)

    @admin.action(description="Disable selected agents", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            queryset,
            "Agents disabled",
            lambda agent: services.set_agent_enabled(agent=agent, enabled=False, operator=operator),
        )

    @admin.action(description="Enable selected agents", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        operator = actor_of(request)
        self.each(
            request,
            queryset,
            "Agents enabled",
            lambda agent: services.set_agent_enabled(agent=agent, enabled=True, operator=operator),
        )


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnlyAdmin):
    list_display = ("agent", "user", "issued_by_name", "created_at", "expires_at", "state")
    list_select_related = ("agent", "user")
    list_filter = ("agent",)
    search_fields = ("agent__name", "user__username", "issued_by_name")
    ordering = ("-created_at",)
    actions = ("revoke",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessToken]:
        rows: QuerySet[AccessToken] = super().get_queryset(request).annotate(moment=JitNow())
        return rows

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_identity.change_accesstoken"))

    @admin.display
    def state(self, token: Any) -> str:
        if token.revoked_at:
            return "revoked"
        return "live" if token.moment < token.expires_at else "expired"

    @admin.action(description="Revoke selected tokens now", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> None:
        operator = actor_of(request)
        self.each(
            request, queryset, "Tokens revoked", lambda token: services.revoke_token(token=token, operator=operator)
        )


def _reset_of_another(person: User, operator: Actor) -> None:
    """One's own are removed where the second factor is asked for first. Raises Forbidden."""
    if person.pk == operator.user:
        raise Forbidden("authenticator.own", "Your own are removed on the page Sign-in and sessions.")
    reset_factors(user=person, operator=operator)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))
