from __future__ import annotations

from celery import shared_task


@shared_task(name="slack.deliver", ignore_result=True)
def deliver() -> None:
    """Send the cards that are not as they should be."""


@shared_task(name="slack.cards", ignore_result=True)
def cards() -> None:
    """Note which cards the latest entries of the ledger touch, and do what came in and was not done."""
