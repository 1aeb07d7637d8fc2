"""The forms behind the policy pages: every mistake is found here and said at its field."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from jitaccess.audit.admin_base import FormBase
from jitaccess.catalog.models import AccessClass
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import visible
from jitaccess.policy.compiler import split_list
from jitaccess.policy.engine.roles import PRIVILEGES, parse_role
from jitaccess.policy.models import Requestable, Role, RoleBinding
from jitaccess.store.clock import now


class DocumentForm(FormBase):
    """One YAML document, a new version of a named row each time it is saved. Names are for life."""

    noun = ""
    holds = ""
    # strip=False: lines are counted as they were typed.
    document = forms.CharField(
        strip=False, widget=forms.Textarea({"rows": 28, "spellcheck": "false", "class": "document vLargeTextField"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "document" in self.fields:  # not when the page only shows it
            said = f"YAML: kind, version, metadata, spec with {self.holds}. Saving makes a new version."
            self.fields["document"].help_text = said

    def read(self, document: str) -> str:
        """The name in it. Raises JitAccessError for what may not be saved here."""
        raise NotImplementedError

    def clean_document(self) -> str:
        """The text with LF line ends, readable as what may be saved here. Every mistake is a form error."""
        document: str = self.cleaned_data["document"].replace("\r\n", "\n")
        try:
            name = self.read(document)
        except JitAccessError as error:
            raise ValidationError(visible(error.detail, limit=500), code=error.code) from error
        self._check_name(name)
        return document

    def _check_name(self, name: str) -> None:
        if self.instance.name and name != self.instance.name:
            raise ValidationError(f"metadata.name: expected {self.instance.name}, for names are for life.")
        same = self._meta.model._default_manager.filter(name=name)  # noqa: SLF001 - Django's public private
        if not self.instance.name and same.exists():
            raise ValidationError(
                f"metadata.name: there is {self.noun} named {name} already; open that one to change it."
            )


class RoleForm(DocumentForm):
    noun, holds = "a role", "allow and deny rules"

    class Meta:
        model = Role
        fields = ("document",)

    def read(self, document: str) -> str:
        return parse_role(document).name


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
    ceiling = forms.BooleanField(
        required=False,
        help_text="It gives nothing: whatever they hold, nothing beyond what this role allows is allowed.",
    )

    class Meta:
        model = RoleBinding
        fields = ("role", "ceiling", "agent", "user", "team", "everyone", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "role" in self.fields:  # not when the page only shows a binding
            self.fields["role"].required = True
            self.fields["expires_at"].help_text = "Empty: until somebody ends it."
            self.fields["everyone"].help_text = "Ceilings only: a role for everybody is a default role."

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("everyone") and not values.get("ceiling"):
            raise ValidationError("To give everybody a role, use default roles; everybody may have a ceiling here.")
        if sum(bool(values.get(name)) for name in ("agent", "user", "team", "everyone")) != 1:
            raise ValidationError("Choose exactly one of agent, user, team and everybody: a binding is of one of them.")
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
    privileges = forms.MultipleChoiceField(
        choices=[(name, name) for name in PRIVILEGES], required=False, widget=forms.CheckboxSelectMultiple
    )

    class Meta:
        model = Requestable
        fields = (
            *("server", "team", "tools", "access", "arguments", "database", "database_objects", "privileges"),
            *("max_minutes", "max_total_minutes", "max_advance_minutes", "max_uses", "policy"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["access"] = split_list(self.instance.access)
        self.initial["privileges"] = split_list(self.instance.privileges)

    def clean_tools(self) -> str:
        return self._patterns("tools")

    def clean_database_objects(self) -> str:
        return self._patterns("database_objects")

    def _patterns(self, field: str) -> str:
        patterns = split_list(self.cleaned_data[field])
        try:
            PatternSet(patterns)
        except Invalid as error:
            raise ValidationError(error.detail, code=error.code) from error
        return ", ".join(patterns)

    def clean_access(self) -> str:
        return ", ".join(self.cleaned_data["access"])

    def clean_privileges(self) -> str:
        return ", ".join(self.cleaned_data["privileges"])

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if self.errors:
            return values
        of_server = values.get("tools") or values.get("access")
        of_database = values.get("database_objects") or values.get("privileges")
        if bool(values.get("server")) == bool(values.get("database")):
            raise ValidationError("Choose a server, or name a database: one of them.")
        if values["server"] and (not of_server or of_database):
            raise ValidationError(
                "Name tools or choose access classes, and nothing of databases: as it is, nothing could be asked for."
            )
        if values["database"] and (of_server or not (values["database_objects"] and values["privileges"])):
            raise ValidationError("Of a database, name objects and choose privileges, and nothing of servers.")
        total = values.get("max_total_minutes")
        if total is not None and total < values["max_minutes"]:
            self.add_error("max_total_minutes", "Less than max minutes: a grant would be longer than its whole life.")
        return values
