"""What may stand in the log: no sign-in link that still works, and one line for what a stranger sent."""

from __future__ import annotations

import logging
import re

_TOKEN = re.compile(r"(sign-in(?:/|%2f))[^/\s%?#'\"]+", re.IGNORECASE)


class DiscreetFormatter(logging.Formatter):
    """Masks the token of a sign-in link wherever it stands, tracebacks included; refusals have no traceback.

    Whoever sends a wrong Host header or a stale form decides how often that happens.
    """

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("django.security"):
            record = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
        return _TOKEN.sub(r"\1…", super().format(record))
