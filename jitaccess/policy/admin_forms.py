"""The forms behind the policy pages: every mistake is found here and said at its field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.forms.formsets import DELETION_FIELD_NAME

from jitaccess.audit.admin_base import FormBase
from jitaccess.catalog.models import AccessClass
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import visible
from jitaccess.policy.compiler import split_list
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.models import ApproverGroup, Requestable, Role, RoleBinding
from jitaccess.store.clock import now

if TYPE_CHECKING:
    InlineFormSetBase = forms.BaseInlineFormSet[Any, Any, Any]
else:
    InlineFormSetBase = forms.BaseInlineFormSet


class RoleForm(FormBase):
    # strip=False: lines are counted as they were typed.
    document = forms.CharField(
        strip=False,
        widget=forms.Textarea({"rows": 28, "spellcheck": "false", "class": "document vLargeTextField"}),
        help_text="YAML: kind, version, metadata, spec with allow and deny rules. Saving makes a new version.",
    )

    class Meta:
        model = Role
        fields = ("document",)

    def clean_document(self) -> str:
        """The text with LF line ends, readable as a role that may be saved here. Every mistake is a form error."""
        document: str = self.cleaned_data["document"].replace("\r\n", "\n")
        try:
            name = parse_role(document).name
        except Invalid as error:
            raise ValidationError(visible(error.detail, limit=500), code=error.code) from error
        self._check_name(name)
        return document

    def _check_name(self, name: str) -> None:
        if self.instance.head and name != self.instance.name:
            raise ValidationError(f"metadata.name: expected {self.instance.name}, for names are for life.")
        if not self.instance.head and Role.objects.filter(name=name).exists():
            raise ValidationError(f"metadata.name: there is a role named {name} already; open that one to change it.")


class DefaultRoleForm(FormBase):
    class Meta:
        model = RoleBinding
        fields = ("everyone", "role")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():  # None when the page only shows a binding
            field.required = True

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        same = RoleBinding.objects.filter(origin="default", ended_at=None, role=values.get("role"))
        if values.get("role") and same.filter(everyone=values.get("everyone")).exists():
            raise ValidationError("They have this role by default already.")
        return values


class StandingBindingForm(FormBase):
    class Meta:
        model = RoleBinding
        fields = ("role", "agent", "user", "team", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.fields:  # None when the page only shows a binding
            self.fields["role"].required = True
            self.fields["expires_at"].help_text = "Empty: until somebody ends it."

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if sum(bool(values.get(name)) for name in ("agent", "user", "team")) != 1:
            raise ValidationError("Choose exactly one of agent, user and team: a binding belongs to one of them.")
        if values.get("expires_at") and values["expires_at"] <= now():
            self.add_error("expires_at", "This moment is past.")
        return values


class RequestableForm(FormBase):
    access = forms.MultipleChoiceField(
        choices=AccessClass.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Every tool of these classes.",
    )

    class Meta:
        model = Requestable
        fields = ("server", "team", "tools", "access", "max_minutes", "max_uses", "policy")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["access"] = split_list(self.instance.access)

    def clean_tools(self) -> str:
        patterns = split_list(self.cleaned_data["tools"])
        try:
            PatternSet(patterns)
        except Invalid as error:
            raise ValidationError(error.detail, code=error.code) from error
        return ", ".join(patterns)

    def clean_access(self) -> str:
        return ", ".join(self.cleaned_data["access"])

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if not self.errors and not values.get("tools") and not values.get("access"):
            raise ValidationError("Name tools or choose access classes: as it is, nothing could be asked for.")
        return values


class ApproverGroupForm(FormBase):
    class Meta:
        model = ApproverGroup
        fields = ("name", "quorum", "users", "teams")

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if self.errors:
            return values
        people = User.objects.filter(Q(pk__in=values["users"]) | Q(teams__in=values["teams"]), is_active=True)
        count, quorum = people.distinct().count(), values["quorum"]
        if not count:
            raise ValidationError("Nobody active is in this group: add people or teams, or remove the group.")
        if quorum > count:
            self.add_error(
                "quorum",
                f"{quorum} people must approve, but only {count} active people are in this group: "
                f"add people or teams, or lower the quorum to {count}.",
            )
        return values


class ApproverGroupFormSet(InlineFormSetBase):
    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if form in self.initial_forms or form.has_changed()]
        if all(form.cleaned_data.get(DELETION_FIELD_NAME) for form in kept):
            raise ValidationError("Add at least one group: without one nothing could ever be approved.")
