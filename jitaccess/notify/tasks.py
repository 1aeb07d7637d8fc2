"""The one task of this package. Safe to run twice, even at once."""

from __future__ import annotations

from celery import shared_task

from jitaccess.notify.deliver import send_due
from jitaccess.notify.fanout import fan_out


@shared_task(name="notify.deliver", ignore_result=True)
def deliver() -> None:
    """Read the ledger, then send what is owed."""
    fan_out()
    send_due()
