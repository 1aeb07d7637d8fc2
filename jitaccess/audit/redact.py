"""Arguments as the ledger keeps them: their digest always, their values with secrets and bulk taken out."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice

import re2  # type: ignore[import-untyped]  # it ships no types

from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

_SECRET_NAME = re2.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|api[-_]?key|credential|authorization|cookie|private[-_]?key)"
)
_SHORT_NAME = 100  # characters
_STRING_LIMIT = 500
_ITEMS_LIMIT = 50
_DEPTH_LIMIT = 6
_TOTAL_LIMIT = 8_000


def redact(value: Json) -> Json:
    """The same shape with members whose name looks like a secret replaced, long text cut, long lists shortened.

    At most about 8,000 characters in all, found in a time that does not grow with the value: one huge call must
    neither fill the ledger nor hold up its neighbours.
    """
    return value if type(value) is dict and _is_plain(value) else _Redaction().of(value, _DEPTH_LIMIT)


def _is_plain(value: JsonObject) -> bool:
    """Whether all of it may be kept as it is: a few short members without secrets, as most arguments are."""
    if len(value) > _ITEMS_LIMIT:
        return False
    size = 0
    for name, member in value.items():
        if type(member) is str:
            if len(member) > _STRING_LIMIT or not (member.isascii() and member.isprintable()):
                return False
            size += len(member)
        elif type(member) is dict or type(member) is list:
            return False
        if len(name) > _SHORT_NAME or not (name.isascii() and name.isprintable()) or _looks_secret(name):
            return False
        size += len(name) + 16
    return size < _TOTAL_LIMIT


def looks_secret(name: str) -> bool:
    """Whether a member or parameter of this name probably holds a secret."""
    return _looks_secret(name) if len(name) <= _SHORT_NAME else bool(_SECRET_NAME.search(name[:1000]))


@lru_cache(maxsize=4096)
def _looks_secret(name: str) -> bool:
    """The same names come again and again; of what a stranger makes up, only so much is kept."""
    return bool(_SECRET_NAME.search(name))


class _Redaction:
    def __init__(self) -> None:
        self._left = _TOTAL_LIMIT

    def of(self, value: Json, depth: int) -> Json:
        if self._left <= 0:
            return "[cut]"
        self._left -= 8
        if isinstance(value, str):
            return self._text(value, _STRING_LIMIT)
        if depth == 0 and isinstance(value, dict | list):
            return "[too deep]"
        if isinstance(value, dict):
            members = islice(value.items(), _ITEMS_LIMIT)
            return {self._text(name, 100): self._member(name, member, depth) for name, member in members}
        if isinstance(value, list):
            return [self.of(item, depth - 1) for item in value[:_ITEMS_LIMIT]]
        return value

    def _member(self, name: str, value: Json, depth: int) -> Json:
        return "[redacted]" if looks_secret(name) else self.of(value, depth - 1)

    def _text(self, text: str, limit: int) -> str:
        if len(text) <= limit and text.isascii() and text.isprintable():
            shown = text  # as `visible` would say
        else:
            shown = visible(text[: limit + 1], limit=limit, multiline=True)
        self._left -= len(shown)
        return shown
