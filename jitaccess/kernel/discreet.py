"""What may stand in the log: nothing that lets anybody in; one line, or one JSON object, for each thing that is said.

Secrets are known by their look (tokens, sign-in links, passwords in URLs) or by name: whoever reads one from the
environment, a file or the database says `hide`.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

# Of the HTTP request that is being answered; "" outside of one.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# What it is about: ids of a call, a grant, a request. One dict for all tasks and threads of the HTTP request.
_about: ContextVar[dict[str, object] | None] = ContextVar("about", default=None)

MASK = "…"
REPEATED = 120  # characters; what is longer is hardly said twice
SHORTEST = 6  # what is shorter stands in ordinary words
_SHAPES = (
    (re.compile(r"(sign-in(?:/|%2f))[^/\s%?#'\"]+", re.IGNORECASE), r"\1" + MASK),
    (re.compile(r"\b((?:bearer|basic)\s+)[^\s,'\"<>]+", re.IGNORECASE), r"\1" + MASK),
    (re.compile(r"\b(jit|in)_[A-Za-z0-9_-]{43}"), r"\1_" + MASK),
    (re.compile(r"(://[^/\s:@'\"]*):[^/\s'\"]+@"), r"\1:" + MASK + "@"),
    (
        re.compile(r"\b(password|passwd|secret|token|api_?key)(=|[\"']:\s?[\"'])[^\s&,;'\"]+", re.IGNORECASE),
        r"\1\2" + MASK,
    ),
)
# Without one of these words none of the shapes is there, and most lines have none.
_WORDS = re.compile(r"sign-in|bearer|basic|t_|n_|://|passw|secret|token|api", re.IGNORECASE)
_hidden: set[str] = set()
_pattern: re.Pattern[str] | None = None
_hidings = 0  # how often there were new ones
_hiding = threading.Lock()
# What callers give in `extra`, beside what is always there.
_NUMBERS = (int, float)
_EXTRA = ("call", "grant", "request", "method", "path", "status", "ms", "client", "task")


def begin_request(name: str) -> dict[str, object]:
    """From here on this context answers the HTTP request called `name`; returns what `is_about` will fill."""
    request_id.set(name)
    ids: dict[str, object] = {}
    _about.set(ids)
    return ids


def is_about(**ids: object) -> None:
    """Note what is being answered, for its line in the log; nothing outside of a request."""
    found = _about.get()
    if found is not None:
        for name, value in ids.items():
            if value is not None:
                found[name] = value


def hide(*secrets: str) -> None:
    """Never let these into the log again, wherever they stand. Values of less than six characters are not masked."""
    global _pattern, _hidings  # noqa: PLW0603 - what this process knows, in one place
    with _hiding:
        new = {part for one in secrets for part in (one, *one.splitlines()) if len(part) >= SHORTEST} - _hidden
        if new:
            _hidden.update(new)
            longest_first = sorted(_hidden, key=len, reverse=True)
            _pattern = re.compile("|".join(map(re.escape, longest_first)))
            _hidings += 1  # last: whoever sees this one sees the pattern


def discreet(text: str) -> str:
    """`text` without secrets."""
    if _pattern is not None:
        text = _pattern.sub(MASK, text)
    if _WORDS.search(text):
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
    return text


@lru_cache(maxsize=1024)
def _once(text: str, _: int) -> str:
    return discreet(text)


def _again(text: str) -> str:
    """`discreet`, for what the access log says again and again: paths, addresses, short sentences."""
    return _once(text, _hidings) if len(text) <= REPEATED else discreet(text)


class DiscreetFormatter(logging.Formatter):
    """Lines for people. Refusals of strangers have no traceback: whoever sends a wrong Host header or a stale form
    decides how often that happens.
    """

    def format(self, record: logging.LogRecord) -> str:
        return discreet(super().format(_without_strangers_traceback(record)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: time (RFC 3339, UTC), level, logger, message; request_id, exception and what
    the caller gave (call, grant, request, …) where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        record = _without_strangers_traceback(record)
        moment = datetime.fromtimestamp(record.created, UTC)
        said: dict[str, str | int | float] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _again(record.getMessage()),
        }
        if found := request_id.get():
            said["request_id"] = found
        given = record.__dict__
        for name in _EXTRA:
            value = given.get(name)
            if isinstance(value, str):
                said[name] = _again(value)
            elif isinstance(value, _NUMBERS):
                said[name] = value
            elif isinstance(value, UUID):
                said[name] = str(value)
        if record.exc_info:
            said["exception"] = discreet(self.formatException(record.exc_info))
        return json.dumps(said)


def _without_strangers_traceback(record: logging.LogRecord) -> logging.LogRecord:
    if record.name.startswith("django.security"):
        return logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
    return record
