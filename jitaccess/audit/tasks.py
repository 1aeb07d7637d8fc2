from __future__ import annotations

from celery import shared_task

from jitaccess.audit import figures


@shared_task(name="figures.count", ignore_result=True)
def count_figures() -> None:
    """Add the latest entries of the ledger to the figures that are shown."""
    figures.count()


@shared_task(name="figures.tidy", ignore_result=True)
def tidy_figures() -> None:
    """Delete figures of times that no page shows any more."""
    figures.tidy()
