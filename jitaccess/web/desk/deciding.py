"""What the forms of a decision say."""

from __future__ import annotations

from collections.abc import Sequence

from django.http import QueryDict

from jitaccess.kernel.errors import Forbidden, Invalid
from requests_app.card.effects import choices_of
from requests_app.card.items import not_shown
from requests_app.selectors import AccessRequest
from requests_app.services import Narrow

CHANNEL = "web"


def ensure_shown(request: AccessRequest) -> None:
    """Raise Forbidden for what a page cannot show: nobody approves what they cannot have read."""
    why = not_shown(request)
    if why:
        raise Forbidden("decision.not_shown", f"{why} It cannot be approved on this page.")


def narrow_of(form: QueryDict, request: AccessRequest) -> Narrow | None:
    """What the form for approving less says; None for the other form. Raises Invalid for what it cannot mean."""
    if "less" not in form:
        return None
    seconds, uses = _number(form.get("seconds", "")), _number(form.get("uses", ""))
    choices = choices_of(request)
    labels: Sequence[str] | None = form.getlist("keep") if choices.labels else None
    narrow = Narrow(
        seconds=seconds if seconds != request.seconds else None,
        max_uses=uses if uses != request.max_uses else None,
        labels=labels if labels is not None and set(labels) != set(choices.labels) else None,
    )
    if narrow == Narrow():
        raise Invalid("decision.terms", "That is all of it: choose a shorter time, fewer calls or fewer things.")
    return narrow


def _number(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdecimal() or len(text.strip()) > 9:
        raise Invalid("decision.terms", "Write how many as a whole number.")
    return int(text)
