from __future__ import annotations

from celery import shared_task


@shared_task(name="webhooks.deliver", ignore_result=True)
def deliver() -> None:
    """Owe what the latest entries of the ledger mean to endpoints, and send what is due."""
