"""What is fetched now and then. No decision waits for it: what is missing or old means nobody."""

from __future__ import annotations

from celery import shared_task

from jitaccess.policy import schedules


@shared_task(name="policy.fetch_schedules", ignore_result=True)
def fetch_schedules() -> int:
    """Ask who is on call, where a schedule is kept elsewhere."""
    return schedules.fetch_schedules()
