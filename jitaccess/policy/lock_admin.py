"""Locks and break-glass rights in the admin. A lock is made and lifted, and never edited or deleted."""

# ruff: noqa: ARG002 - Django's signatures and names

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from jitaccess.audit.admin_base import FormBase, RecordedAdmin, actor_of
from jitaccess.audit.admin_site import ATTENTION, Attention, may_look
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.locks import MAX_REASON, find_target, live_locks, lock, unlock
from jitaccess.policy.models import BreakGlass, Lock
from jitaccess.store.clock import JitNow, now


class LockForm(FormBase):
    name = forms.CharField(
        required=False,
        max_length=150,
        label="target",
        help_text="The name of an agent, user, server or role, or its id; the id of a grant; empty for everything.",
    )
    reason = forms.CharField(max_length=MAX_REASON, widget=forms.Textarea({"rows": 2}))

    class Meta:
        model = Lock
        fields = ("kind", "name", "reason", "expires_at")

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("expires_at") and values["expires_at"] <= now():
            self.add_error("expires_at", "This moment is past.")
        if "kind" not in values or "name" not in values:
            return values
        try:
            # On the row, because the model's constraints are looked at before it is saved.
            self.instance.target = find_target(values["kind"], values["name"])
        except JitAccessError as error:
            self.add_error("name", error.detail)
        self.instance.created_at = now()
        return values


@admin.register(Lock)
class LockAdmin(RecordedAdmin):
    form = LockForm
    list_display = ("created_at", "kind", "target_name", "state", "reason", "created_by_name", "expires_at")
    list_filter = ("kind", ("lifted_at", admin.EmptyFieldListFilter))
    search_fields = ("target_name", "reason", "created_by_name")
    actions = ("lift",)
    service_records_addition = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lock]:
        rows: QuerySet[Lock] = super().get_queryset(request).annotate(moment=JitNow())
        return rows

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        kept = (
            "kind", "target_name", "target", "reason", "created_at", "created_by_name", "expires_at", "lifted_at",
            "lifted_by_name",
        )  # fmt: skip
        return kept if obj else ("kind", "name", "reason", "expires_at")

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_lift_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_policy.change_lock"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        made = lock(
            kind=obj.kind,
            target=obj.target,
            reason=form.cleaned_data["reason"],
            expires_at=form.cleaned_data["expires_at"],
            operator=actor_of(request),
        )
        obj.pk, obj.target_name = made.pk, made.target_name

    @admin.display
    def state(self, row: Any) -> str:
        if row.lifted_at:
            return f"lifted by {row.lifted_by_name}"
        return "time is up" if row.expires_at and row.expires_at <= row.moment else "in force"

    @admin.action(description="Lift selected locks now", permissions=["lift"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Lock]) -> None:
        operator = actor_of(request)
        self.each(request, queryset, "Locks lifted", lambda row: unlock(lock=row, operator=operator))


class BreakGlassForm(FormBase):
    class Meta:
        model = BreakGlass
        fields = ("name", "role", "users", "teams", "max_minutes", "reviewers", "enabled")

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        reviewers = values.get("reviewers")
        if reviewers and reviewers.members.filter(is_active=True).count() < 2:
            raise ValidationError(
                "Choose reviewers of whom two are active: nobody reviews their own use, and while a review is overdue "
                "the right is refused."
            )
        if not self.errors and not values["users"] and not values["teams"]:
            raise ValidationError("Choose users or teams: as it is, nobody would have this right.")
        return values


@admin.register(BreakGlass)
class BreakGlassAdmin(RecordedAdmin):
    form = BreakGlassForm
    list_display = ("name", "role", "max_minutes", "reviewers", "enabled")
    list_select_related = ("role", "reviewers")
    search_fields = ("name", "role__name")
    filter_horizontal = ("users", "teams")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Names are for life: uses are counted, and their reviews kept, by them."""
        return ("name",) if obj else ()


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_policy.lock"):
        yield Attention("Locks in force", live_locks().count(), reverse("web:locks"))


ATTENTION.append(_attention)
