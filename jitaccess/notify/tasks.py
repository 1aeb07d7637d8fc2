"""The tasks of this package. Safe to run twice, even at once."""

from __future__ import annotations

from celery import shared_task

from jitaccess.notify.deliver import send_due
from jitaccess.notify.ends import owe_notices_of_ends
from jitaccess.notify.fanout import fan_out


@shared_task(name="notify.deliver", ignore_result=True)
def deliver() -> None:
    """Read the ledger, then send what is owed."""
    fan_out()
    send_due()


@shared_task(name="notify.tell_of_ends", ignore_result=True)
def tell_of_ends() -> None:
    """Owe a notice of each grant that ends soon."""
    owe_notices_of_ends()
