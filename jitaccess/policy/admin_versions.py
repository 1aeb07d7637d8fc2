"""Rows that are documents with versions: what each version said, and making an old one the current one again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import admin

from jitaccess.catalog.diff import Difference, differences
from jitaccess.kernel.text import visible

if TYPE_CHECKING:
    AdminBase = admin.ModelAdmin[Any]
else:
    AdminBase = admin.ModelAdmin

_MOST = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One version, and how it differs from the one before; no difference for the first."""

    version: Any
    changes: list[Difference]
    current: bool

    @property
    def text(self) -> str:
        """All of it, inert."""
        return visible(self.version.document, limit=200_000, multiline=True)


class Versioned(AdminBase):
    """For models with `document`, `head` and `versions`. Opened with ?version=N, the form holds what that one said:
    saving it, after a look at what that changes, makes it a new version.
    """

    def get_object(self, request: Any, object_id: str, from_field: str | None = None) -> Any:
        obj = super().get_object(request, object_id, from_field)
        if obj is not None and request.method == "GET" and (old := self._wanted(request, obj)):
            obj.document = old.document
        return obj

    def render_change_form(
        self,
        request: Any,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        if obj is not None and (old := self._wanted(request, obj)):
            context["restoring"] = old
        return super().render_change_form(request, context, add, change, form_url, obj)

    def history_of(self, request: Any, obj: Any) -> dict[str, Any]:
        found = list(obj.versions.order_by("-version")[: _MOST + 1])
        steps = [
            Step(one, differences(before.document, one.document) if before else [], one.version == obj.head)
            for one, before in zip(found, [*found[1:], None], strict=True)
        ]
        may = self.has_change_permission(request, obj)
        return {"steps": steps[:_MOST], "cut": len(found) > _MOST, "may_restore": may}

    def _wanted(self, request: Any, obj: Any) -> Any:
        text = request.GET.get("version", "")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        return obj.versions.filter(version=number).first() if number else None
