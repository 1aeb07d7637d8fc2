"""How often one may call, counted by the minute: in Redis for all processes, or in this one when there is none."""

from __future__ import annotations

import logging
import time

from django.conf import settings
from django.core.cache import BaseCache, caches
from rest_framework.exceptions import Throttled
from rest_framework.request import Request

# Several callers share an address.
PER_ADDRESS = 10
WINDOW = 60
# A Redis that does not answer is not asked again for so long: each try costs its timeout.
PAUSE = 5.0

log = logging.getLogger(__name__)
_away = {"until": 0.0}


def spend(request: Request, who: str, *, times: int = 1, reads: bool = False) -> None:
    """Count one call of `who`, who has `times` the usual number of them. Raises Throttled with the seconds to wait.

    `reads`: it changes nothing, whatever its method.
    """
    reads = reads or request.method in {"GET", "HEAD", "OPTIONS"}
    limit = times * (settings.API_READS_PER_MINUTE if reads else settings.API_WRITES_PER_MINUTE)
    moment = time.time()
    window = int(moment // WINDOW)
    if _count(f"jit-api:{'r' if reads else 'w'}:{who}:{window}") > limit:
        raise Throttled(wait=WINDOW - moment % WINDOW)


def _count(key: str) -> int:
    """One more for `key`; never an error, and never without a count: without Redis each process counts its own."""
    if time.monotonic() >= _away["until"]:
        try:
            return _add(caches["api"], key)
        except Exception as error:  # noqa: BLE001 - a client library's errors are many, and none is worth a 500
            log.warning("calls are counted by each process for now: %s", error)
            _away["until"] = time.monotonic() + PAUSE
    return _add(caches["api-local"], key)


def _add(cache: BaseCache, key: str) -> int:
    cache.add(key, 0, 2 * WINDOW)
    try:
        return int(cache.incr(key))
    except ValueError:  # pushed out between the two
        return 1
