"""Arguments as the ledger keeps them: their digest always, their values with secrets and bulk taken out."""

from __future__ import annotations

import re2  # type: ignore[import-untyped]  # it ships no types

from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

_SECRET_NAME = re2.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|api[-_]?key|credential|authorization|cookie|private[-_]?key)"
)
_STRING_LIMIT = 500
_ITEMS_LIMIT = 50


def redact(value: Json, *, depth: int = 6) -> Json:
    """The same shape with members whose name looks like a secret replaced, long text cut, long lists shortened."""
    if isinstance(value, str):
        return visible(value, limit=_STRING_LIMIT, multiline=True)
    if depth == 0 and isinstance(value, dict | list):
        return "[too deep]"
    if isinstance(value, dict):
        return {
            visible(name, limit=100): "[redacted]" if _SECRET_NAME.search(name) else redact(member, depth=depth - 1)
            for name, member in list(value.items())[:_ITEMS_LIMIT]
        }
    if isinstance(value, list):
        return [redact(item, depth=depth - 1) for item in value[:_ITEMS_LIMIT]]
    return value
