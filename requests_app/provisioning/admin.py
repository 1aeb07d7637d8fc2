"""Targets in the admin, and what is provisioned there. Secrets go in and never come out."""

# ruff: noqa: ARG002 - Django's signatures

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from jitaccess.audit.admin_base import ReadOnlyAdmin, RecordedAdmin, actor_of, record_configuration
from jitaccess.audit.admin_site import ATTENTION, Attention, listed, may_look
from jitaccess.egress.webhooks import signing_key
from jitaccess.kernel.errors import Conflict, JitAccessError
from jitaccess.kernel.secretbox import key_id
from jitaccess.kernel.text import visible

from .entitlements import Match
from .registry import kinds
from .rows import Provision, Target
from .service import try_again
from .targets import checked_url, drop_old_secret, forget_secrets, origin_of, provisioner_of, set_secret

if TYPE_CHECKING:
    FormBase = forms.ModelForm[Any]
else:
    FormBase = forms.ModelForm


class TargetForm(FormBase):
    """What can be judged before anything is saved: patterns, address, secret."""

    kind = forms.ChoiceField(choices=lambda: [(kind, kind) for kind in kinds()], initial="webhook")
    secret = forms.CharField(
        required=False,
        max_length=8192,
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}, render_value=False),
        help_text="Stored encrypted, and never shown again. A webhook's is whsec_ and base64 of 24 to 64 bytes. "
        "The one before it stays valid until you drop it.",
    )

    def clean_match(self) -> str:
        return str(self._judged("match", lambda text: Match(text) and text))

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        kind = data.get("kind", self.instance.kind)
        if kind == "webhook":
            if not data.get("url"):
                self.add_error("url", "A webhook needs an address.")
            else:
                self._or_error("url", lambda: data.update(url=checked_url(data["url"])))
            if secret := data.get("secret"):
                self._or_error("secret", lambda: signing_key(secret))
        return data

    def _judged(self, name: str, judge: Any) -> Any:
        try:
            return judge(self.cleaned_data[name])
        except JitAccessError as error:
            raise forms.ValidationError(error.detail, code=error.code) from None

    def _or_error(self, name: str, judge: Any) -> None:
        try:
            judge()
        except JitAccessError as error:
            self.add_error(name, error.detail)


@admin.register(Target)
class TargetAdmin(RecordedAdmin):
    form = TargetForm
    list_display = ("slug", "leads_to", "enabled", "state")
    list_filter = ("enabled", "kind")
    search_fields = ("slug", "description", "url")
    actions = ("drop_old_secrets",)
    fields = (
        "slug",
        "kind",
        "url",
        "match",
        "secret",
        "given",
        "enabled",
        "description",
        "leads_to",
        "state",
        "unknown",
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Another kind is another target: what was given by the old one could not be taken away by the new one."""
        return ("given", "leads_to", "state", "unknown", *(("slug", "kind") if obj else ()))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        operator = actor_of(request)
        if change:
            before = Target.objects.select_for_update().get(pk=obj.pk)
            if origin_of(before) != origin_of(obj):
                forget_secrets(target=before, operator=operator)
        super().save_model(request, obj, form, change)
        if secret := form.cleaned_data["secret"]:
            set_secret(target=obj, secret=secret, operator=operator)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was given somewhere can only be taken away while it is known where that was: switch it off instead."""
        used = obj is not None and Provision.objects.filter(target=obj).exists()
        return not used and super().has_delete_permission(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    @admin.display(description="secrets")
    def given(self, target: Target) -> str:
        keys = [f"set, key {key_id(sealed)}" for sealed in (target.sealed, target.sealed_before) if sealed]
        return "; and the one before it: ".join(keys) or "none"

    @admin.display(description="leads to")
    def leads_to(self, target: Target) -> str:
        if not target.slug:
            return "—"
        try:
            return visible(provisioner_of(target).describe(), limit=300)
        except JitAccessError as error:
            return error.detail

    @admin.display
    def state(self, target: Target) -> str:
        if target.last_error:
            return f"last failure: {target.last_error}"
        return f"compared {target.listed_at:%Y-%m-%d %H:%M} UTC" if target.listed_at else "not compared yet"

    @admin.action(description="Drop the older secret of selected targets", permissions=["change"])
    def drop_old_secrets(self, request: HttpRequest, queryset: QuerySet[Target]) -> None:
        operator = actor_of(request)
        self.each(request, queryset, "Looked at", lambda target: drop_old_secret(target=target, operator=operator))


@admin.register(Provision)
class ProvisionAdmin(ReadOnlyAdmin):
    list_display = ("changed_at", "entitlement", "agent", "user", "target", "state", "attempts", "last_error")
    list_select_related = ("agent", "user", "target")
    list_filter = ("state", "alarmed", "gave_up", "drifted", "target")
    search_fields = ("entitlement", "agent__name", "user__username", "last_error")
    uuid_fields = ("pk", "agent", "user", "target")
    actions = ("try_again_now",)

    def has_try_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jit_requests.change_target"))

    @admin.action(description="Try again now", permissions=["try"])
    def try_again_now(self, request: HttpRequest, queryset: QuerySet[Provision]) -> None:
        def again(row: Provision) -> None:
            if not try_again(row):
                raise Conflict("provisioning.busy", "It is being worked on, or there is nothing to do.")
            record_configuration(request, row, "tried again", {})

        self.each(request, queryset, "Due now", again)


def _attention(request: HttpRequest) -> Iterator[Attention]:
    if may_look(request, "jit_requests.provision"):
        for flag, said in (("gave_up", "Provisions that were given up"), ("alarmed", "Provisions that are overdue")):
            count = Provision.objects.filter(**{flag: True}).count()
            yield Attention(said, count, listed("jit_requests.provision", f"{flag}__exact=1"), "bad")


ATTENTION.append(_attention)
