"""Notices by e-mail: text and HTML that say the same."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from jitaccess.notify.notice import Notice


def send(notice: Notice) -> None:
    """Raises what the mail server says. The subject is one printable line already, so no header can be smuggled in."""
    host = urlsplit(settings.PUBLIC_URL).hostname or "localhost"
    thread = f"<{notice.about}@{host}>"
    headers = {
        "Message-ID": f"<{notice.id}@{host}>",  # the same when it is tried again
        "In-Reply-To": thread,
        "References": thread,
        "List-Id": f"jitaccess notices <notices.{host}>",
        # RFC 3834: no answer of a machine's to this.
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
    }
    subject = f"[jitaccess] {notice.subject}"
    message = EmailMultiAlternatives(subject, notice.body, to=[notice.address], headers=headers)
    context = {
        "notice": notice,
        "url": notice.url,
        "action": notice.action,
        "preferences": f"{settings.PUBLIC_URL}/preferences/",
    }
    message.attach_alternative(render_to_string("email/notice.html", context), "text/html")
    message.send()
