"""Notices by e-mail: text only."""

from __future__ import annotations

from django.conf import settings
from django.core.mail import send_mail

from jitaccess.notify.notice import Notice


def send(notice: Notice) -> None:
    """Raises what the mail server says. The subject is one printable line already, so no header can be smuggled in."""
    send_mail(f"[jitaccess] {notice.subject}", notice.body, settings.DEFAULT_FROM_EMAIL, [notice.address])
