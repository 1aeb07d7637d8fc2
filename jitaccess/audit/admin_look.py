"""Looking at what an action on chosen rows would change, before it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from django.core import signing
from django.http import HttpResponse
from django.template.response import TemplateResponse
from django.utils.crypto import salted_hmac

from jitaccess.audit.admin_preview import Impact, was_shown
from jitaccess.kernel.canonical import canonical

_SALT = "jitaccess.preview.action"


def look_first(
    admin: Any, request: Any, rows: Sequence[Any], impact: Impact, *, action: str, title: str
) -> HttpResponse | None:
    """The page between choosing and doing; None once this person has seen just this, a short while ago. The token on it
    stands for who saw it, which rows, and what they were told.
    """
    person = str(request.user.pk)
    said = [admin.opts.label, action, sorted(str(row.pk) for row in rows), impact.stable]
    content = canonical(json.loads(json.dumps(said, default=str)))
    shown = salted_hmac(_SALT, content, algorithm="sha256").hexdigest()
    if not impact.refusals and was_shown(request.POST.get("previewed", ""), _SALT, to=person, what=shown):
        return None
    context = {
        **admin.admin_site.each_context(request),
        "opts": admin.opts,
        "title": title,
        "rows": rows,
        "action": action,
        "impact": impact,
        "impact_template": admin.impact_template,
        "token": signing.dumps([person, shown], salt=_SALT),
    }
    return TemplateResponse(request, "admin/look_first.html", context)
