from __future__ import annotations

import logging
import threading
from uuid import UUID

from celery import shared_task
from django.db import connections

from jitaccess.notify.webhooks.delivering import due_endpoints, work
from jitaccess.notify.webhooks.owed import owe

log = logging.getLogger("jitaccess.webhooks")

_AT_ONCE = 4  # endpoints in one process
# Of reading, in one run of the task: as long as there is more than this. While calls come there is always something.
_MOST_STEPS, _MUCH = 20, 500
_busy: set[UUID] = set()
_lock = threading.Lock()


@shared_task(name="webhooks.deliver", ignore_result=True)
def deliver() -> None:
    """Owe what the latest entries of the ledger mean to endpoints, and begin to send what is due.

    In threads of their own: a slow endpoint holds up neither another one nor the sweeps.
    """
    for _ in range(_MOST_STEPS):
        if owe() < _MUCH:
            break
    for endpoint in due_endpoints():
        begin(endpoint)


def begin(endpoint: UUID) -> threading.Thread | None:
    """Work on this endpoint, unless this process does so already or has its hands full: then the next run does."""
    with _lock:
        if endpoint in _busy or len(_busy) >= _AT_ONCE:
            return None
        _busy.add(endpoint)
    # A daemon: what it does is good for nothing after the process, and its lease runs out by itself.
    thread = threading.Thread(target=_run, args=(endpoint,), daemon=True, name="webhooks")
    thread.start()
    return thread


def _run(endpoint: UUID) -> None:
    try:
        work(endpoint)
    except Exception:
        log.exception("webhook %s could not be worked on and will be tried again", endpoint)
    finally:
        with _lock:
            _busy.discard(endpoint)
        connections.close_all()
