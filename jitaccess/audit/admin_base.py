"""What every admin page here has in common: changes are recorded, history is read-only, refusals are messages."""

# ruff: noqa: ARG002, SLF001 - Django's signatures and names

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import QuerySet
from django.forms.formsets import DELETION_FIELD_NAME
from django.forms.models import model_to_dict
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.redact import redact
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

if TYPE_CHECKING:
    AdminBase = admin.ModelAdmin[Any]
    InlineBase = admin.TabularInline[Any, Any]
    FormBase = forms.ModelForm[Any]
else:
    AdminBase, InlineBase, FormBase = admin.ModelAdmin, admin.TabularInline, forms.ModelForm


# So many changes of one row are shown.
_HISTORY = 100


def actor_of(request: HttpRequest) -> Actor:
    """The signed-in person, as the ledger names them."""
    user: Any = request.user
    return Actor(
        user=user.pk, user_name=user.get_username(), client="admin", source=request.META.get("REMOTE_ADDR", "")
    )


def record_configuration(request: HttpRequest, obj: models.Model, action: str, changes: JsonObject) -> None:
    """One `configuration.changed` entry; `changes` by field name, redacted here by those names."""
    data: JsonObject = {
        "action": action,
        "kind": str(obj._meta.verbose_name),
        "id": str(obj.pk),
        "name": visible(str(obj), limit=200),
        "changes": redact(changes),
    }
    record(Facts(event=Event.CONFIGURATION_CHANGED, actor=actor_of(request), data=data))


class ReportsRefusals(AdminBase):
    """A service that refuses becomes a message on the page instead of a server error."""

    class Media:
        css = {"all": ["jitaccess/admin.css"]}

    def formfield_for_dbfield(self, db_field: models.Field[Any, Any], request: Any, **kwargs: Any) -> Any:
        """Django's label names both halves of a moment, and so neither of them to a screen reader."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if isinstance(field, forms.SplitDateTimeField):
            for half, widget in zip(("date", "time"), field.widget.widgets, strict=True):
                widget.attrs["aria-label"] = f"{field.label}, {half}"
        return field

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except JitAccessError as error:  # Raised inside Django's transaction, which is rolled back by now.
            messages.error(request, error.detail)
            return HttpResponseRedirect(request.get_full_path())

    def each(self, request: HttpRequest, rows: Iterable[Any], done: str, do: Callable[[Any], object]) -> None:
        """Run a service once per row, every row a transaction of its own, and say what came of it."""
        count = 0
        for row in rows:
            try:
                do(row)
            except JitAccessError as error:
                messages.error(request, f"Refused for {row}: {error.detail}")
            else:
                count += 1
        if count:
            messages.success(request, f"{done}: {count}.")


class RecordedAdmin(ReportsRefusals):
    """Every add, change and deletion leaves one `configuration.changed` entry in the same transaction."""

    # True where the service that adds or changes has an event of its own.
    service_records_addition = service_records_change = False

    def formfield_for_dbfield(self, db_field: models.Field[Any, Any], request: Any, **kwargs: Any) -> Any:
        """A switch carries the state its page was opened with: a stale page must not undo an emergency stop."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if isinstance(field, forms.BooleanField):
            field.show_hidden_initial = True
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write only what was changed on the page, or it would write back what somebody else changed since."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        concrete = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=concrete.intersection(form.changed_data))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Called last inside the transaction of the form, with everything that was changed at hand."""
        super().save_related(request, form, formsets, change)
        if self.service_records_change if change else self.service_records_addition:
            return
        changes = {**_form_changes(form, added=not change), **_inline_changes(formsets)}
        if changes or not change:
            record_configuration(request, form.instance, "changed" if change else "added", changes)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            record_configuration(request, obj, "removed", _before(obj))
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                record_configuration(request, obj, "removed", _before(obj))
            super().delete_queryset(request, queryset)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What was recorded about this row, instead of what the admin noted about it."""
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            raise Http404
        if not self.has_view_or_change_permission(request, obj):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": f"History of {obj}",
            "subtitle": None,
            "opts": self.opts,
            "object": obj,
            "module_name": str(self.opts.verbose_name_plural),
            **self.history_of(request, obj),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/history.html", context)

    def history_of(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """The latest changes, for the page."""
        rows = Entry.objects.filter(event=Event.CONFIGURATION_CHANGED, data__contains=f'"id":"{obj.pk}"')
        found = list(rows.order_by("-uid")[: _HISTORY + 1])
        return {"entries": [(entry, _told(entry)) for entry in found[:_HISTORY]], "cut": len(found) > _HISTORY}


class ReadOnlyAdmin(ReportsRefusals):
    """History and what services alone may write: to be looked at, not touched, not even by actions."""

    list_per_page = 50
    show_full_result_count = False
    # Fields that a search for a whole UUID looks in, exactly.
    uuid_fields: tuple[str, ...] = ("pk",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            wanted = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        # Each by its own index: with OR, and over a join, the whole table would be read.
        of_any = [
            self.model._default_manager.filter(**{name: wanted}).order_by().values("pk") for name in self.uuid_fields
        ]
        return queryset.filter(pk__in=of_any[0].union(*of_any[1:])), False


class ReadOnlyInline(InlineBase):
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


def inert(text: str, *, limit: int = 200_000) -> SafeString:
    """Foreign text as a block in which nothing can act, hide or reorder."""
    return format_html("<pre>{}</pre>", visible(text, limit=limit, multiline=True))


def pretty(document: str) -> str:
    """JSON text indented for reading; anything else as it is."""
    try:
        return json.dumps(json.loads(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return document


def _told(entry: Entry) -> dict[str, Any]:
    """What an entry says was done: `action`, and lines of what changed, inert."""
    data = json.loads(entry.data)
    changes = data.get("changes")
    lines = changes.items() if isinstance(changes, dict) else ()
    said = [(visible(name, limit=200), visible(_words(value), limit=1000, multiline=True)) for name, value in lines]
    return {"action": visible(str(data.get("action", "")), limit=40), "changes": said}


def _words(value: Json) -> str:
    if isinstance(value, dict) and value.keys() == {"from", "to"}:
        before, after = (
            one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in (value["from"], value["to"])
        )
        return f"{before or '(empty)'} → {after or '(empty)'}" if value["from"] is not None else after or "(empty)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _form_changes(form: Any, *, added: bool, without: Collection[str] = ()) -> JsonObject:
    names = form.fields if added else form.changed_data
    changes: JsonObject = {}
    for name in names:
        if name in without or name not in form.cleaned_data:
            continue
        before, after = (None if added else form.initial.get(name)), form.cleaned_data[name]
        if isinstance(after, QuerySet):
            old, new = {str(item) for item in before or ()}, {str(item) for item in after}
            changes[name] = {"added": [*sorted(new - old)], "removed": [*sorted(old - new)]}
        else:
            changes[name] = {"from": _plain(_by_name(form.fields[name], before)), "to": _plain(after)}
    return changes


def _inline_changes(formsets: Iterable[Any]) -> JsonObject:
    changes: JsonObject = {}
    for formset in formsets:
        plumbing = {formset.model._meta.pk.name, formset.fk.name, DELETION_FIELD_NAME}
        for form in formset.forms:
            name = f"{formset.model._meta.verbose_name} {form.instance}"
            if form in formset.deleted_forms:
                changes[name] = "removed"
            elif form.has_changed():
                changes[name] = _form_changes(form, added=form in formset.extra_forms, without=plumbing)
    return changes


def _by_name(field: forms.Field, value: object) -> object:
    """A form's initial value holds a related row by its id."""
    if isinstance(field, forms.ModelChoiceField) and field.queryset is not None:
        return field.queryset.model._default_manager.filter(pk=value).first()
    return value


def _before(obj: models.Model) -> JsonObject:
    return {name: {"from": _plain(value), "to": None} for name, value in _readable(obj).items()}


def _readable(obj: models.Model) -> Mapping[str, object]:
    """Field values with related rows by name, not by id."""
    values = model_to_dict(obj)
    for name in values:
        if obj._meta.get_field(name).many_to_one:
            values[name] = getattr(obj, name)
    return values


def _plain(value: object) -> Json:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple | set | QuerySet):
        return [_plain(item) for item in value]
    return str(value)
