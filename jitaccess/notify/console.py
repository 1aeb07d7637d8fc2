"""Notices as lines in the log."""

from __future__ import annotations

import logging

from jitaccess.kernel.text import visible
from jitaccess.notify.notice import Notice

log = logging.getLogger("jitaccess.notify")


def send(notice: Notice) -> None:
    log.info("to %s: %s: %s", visible(notice.to, limit=150), notice.subject, notice.url)
