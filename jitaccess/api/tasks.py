from __future__ import annotations

from celery import shared_task

from jitaccess.api.idempotency import forget_old_answers


@shared_task(name="api.forget_old_answers", ignore_result=True)
def forget() -> int:
    """Idempotency keys are good for a day."""
    return forget_old_answers()
