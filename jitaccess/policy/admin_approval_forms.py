"""The forms behind the pages about approvals: every mistake is found here and said at its field."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from jitaccess.audit.admin_base import FormBase
from jitaccess.egress.addresses import Allowance, check_url
from jitaccess.identity.models import User
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.text import visible
from jitaccess.policy.admin_forms import DocumentForm
from jitaccess.policy.approval.document import parse_policy
from jitaccess.policy.compiler import split_list
from jitaccess.policy.models import ApprovalPolicy, Delegation, OnCallSchedule
from jitaccess.policy.policies import policy_warnings


class ApprovalPolicyForm(DocumentForm):
    noun, holds = "an approval policy", "ordered rules"

    class Meta:
        model = ApprovalPolicy
        fields = ("document",)

    def read(self, document: str) -> str:
        policy = parse_policy(document)
        policy_warnings(policy)  # for people who do not exist
        return policy.name


class OnCallScheduleForm(FormBase):
    rota = forms.CharField(
        required=False, widget=forms.Textarea({"rows": 3}), help_text="Usernames in turn, comma-separated: anna, bert."
    )

    class Meta:
        model = OnCallSchedule
        fields = ("name", "rota", "starts_at", "hours", "url")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["rota"] = ", ".join(json.loads(self.instance.rota))

    def clean_rota(self) -> str:
        names = split_list(self.cleaned_data["rota"])
        known = set(User.objects.filter(username__in=names, is_active=True).values_list("username", flat=True))
        unknown = [visible(name, limit=40) for name in names if name not in known]
        if unknown:
            raise ValidationError(f"There is no active user named {', '.join(unknown)}.")
        return canonical(names).decode()

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"].strip()
        try:
            if url:
                check_url(url, Allowance.parse(settings.EGRESS_ALLOW))
        except JitAccessError as error:
            raise ValidationError(visible(error.detail, limit=500), code=error.code) from error
        return url

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if self.errors:
            return values
        if bool(values["url"]) == (values["rota"] != "[]"):
            raise ValidationError("Give either people in turn or a URL that knows who is on call.")
        if not values["url"] and not values["starts_at"]:
            self.add_error("starts_at", "When did the first person's turn begin?")
        return values


class DelegationForm(FormBase):
    person: User  # who is signed in: set by the page

    class Meta:
        model = Delegation
        fields = ("delegate", "starts_at", "ends_at", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "delegate" in self.fields:  # not when the page only shows one
            self.instance.person = self.person
            self.fields["delegate"].queryset = User.objects.filter(is_active=True).exclude(pk=self.person.pk)  # type: ignore[attr-defined]
            self.fields["starts_at"].required = False
            self.fields["starts_at"].help_text = "Empty: now. These are your own approvals, for at most 30 days."
