"""Sweeps of targets. They are asked outside of any transaction; safe to run twice, even at once."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db.models import Q

from .reconcile import reconcile
from .rows import Target
from .wants import look_again_at_all
from .work import work_due

log = logging.getLogger(__name__)


@shared_task(name="requests_app.provision", ignore_result=True)
def provision() -> int:
    """Give and take on targets what grants want there now."""
    return work_due()


@shared_task(name="requests_app.reconcile_targets", ignore_result=True)
def reconcile_targets() -> int:
    """Compare each target in use with what should be there; returns how many could be compared."""
    look_again_at_all()
    done = 0
    for target in Target.objects.filter(Q(enabled=True) | Q(provisions__isnull=False)).distinct():
        try:
            done += reconcile(target) is not None
        except Exception:
            log.exception("target %s could not be reconciled and will be tried again", target.slug)
    return done
