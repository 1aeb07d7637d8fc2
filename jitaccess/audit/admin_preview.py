"""Looking at what a change of configuration would do, between its form and saving it."""

# ruff: noqa: SLF001 - Django's names

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from django.contrib import messages
from django.contrib.admin.utils import flatten_fieldsets, unquote
from django.core import signing
from django.core.exceptions import ValidationError
from django.http import HttpResponseRedirect
from django.utils.crypto import constant_time_compare, salted_hmac

from jitaccess.audit.admin_base import RecordedAdmin
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.strictjson import Json

# So long after it was shown may it be saved, in seconds.
LIFE = 900
_SALT = "jitaccess.preview"
_NOT_CONTENT = {"csrfmiddlewaretoken", "previewed", "_save", "_continue", "_addanother", "_popup"}


class Impact(Protocol):
    """What a change would do. `stable` is the part that must still be so when it is saved; `refusals`: it never is."""

    @property
    def stable(self) -> list[object]: ...

    @property
    def refusals(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A form that is not saved yet. `token` stands for who was shown it and when, the row, the form's content, and what
    was shown of what it changes.
    """

    impact: Impact
    token: str


class WithPreview(RecordedAdmin):
    """Between the form and saving it stands what it would change. Saving anything else than what was looked at, or
    after that came to mean something else, asks again.
    """

    change_form_template = "admin/previewed.html"
    impact_template = "admin/_impact.html"

    def impact_of(self, form: Any, obj: Any) -> Impact:
        """Of a valid form; `obj` is the row as it is now, None for a new one. Writes nothing."""
        raise NotImplementedError

    def changeform_view(
        self,
        request: Any,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        request.held = None
        if request.method == "POST":
            try:
                # Before Django's transaction: looking at all of policy, nobody else should wait for us to write.
                request.held = self._held(request, object_id)
            except JitAccessError as error:
                messages.error(request, error.detail)
                return HttpResponseRedirect(request.get_full_path())
        return super().changeform_view(request, object_id, form_url, extra_context)

    def get_form(self, request: Any, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        if getattr(request, "held", None) is None:
            return form
        return type(form.__name__, (_HeldForm, form), {})

    def render_change_form(
        self,
        request: Any,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        held = getattr(request, "held", None)
        if held is not None:
            context["errors"] = []  # the form has none but that it was not looked at
        may = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        context |= {"held": held, "may_save": may, "impact_template": self.impact_template}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _held(self, request: Any, object_id: str | None) -> Held | None:
        """None when it may be saved, and when it is for Django to refuse it."""
        obj = self.get_object(request, unquote(object_id)) if object_id else None
        if not (self.has_change_permission(request, obj) if obj else self.has_add_permission(request)):
            return None
        if object_id and obj is None:
            return None
        fields = flatten_fieldsets(self.get_fieldsets(request, obj))
        form = self.get_form(request, obj, change=obj is not None, fields=fields)(request.POST, instance=obj)
        if not form.is_valid():
            return None
        before = self.model._default_manager.filter(pk=obj.pk).first() if obj else None  # the form has written to `obj`
        impact = self.impact_of(form, before)
        content = {name: sorted(request.POST.getlist(name)) for name in request.POST if name not in _NOT_CONTENT}
        said: Json = json.loads(json.dumps([content, impact.stable, object_id, self.opts.label], default=str))
        person, shown = str(request.user.pk), salted_hmac(_SALT, canonical(said), algorithm="sha256").hexdigest()
        if not impact.refusals and was_shown(request.POST.get("previewed", ""), _SALT, to=person, what=shown):
            return None
        return Held(impact, signing.dumps([person, shown], salt=_SALT))


def was_shown(token: str, salt: str, *, to: str, what: str) -> bool:
    """Whether the page with this token was made for this person and shows just this, a short while ago."""
    try:
        person, shown = signing.loads(token, salt=salt, max_age=LIFE)
    except (signing.BadSignature, ValueError, TypeError):
        return False
    return constant_time_compare(person, to) and constant_time_compare(shown, what)


class _HeldForm:
    """Whatever else it is: not valid before somebody has looked at what it changes."""

    def clean(self) -> Any:
        super().clean()  # type: ignore[misc]  # of the form it is mixed into
        raise ValidationError("Look at what this changes, then save.", code="preview")
