"""Answers for everybody who may see all: made by a task while nobody waits, read by whoever looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache

from jitaccess.audit.models import Kept
from jitaccess.kernel.once import once
from jitaccess.store.clock import JitNow

# The task comes every minute; what is older than this has been forgotten by it, and is made for who asks.
FRESH = timedelta(minutes=3)
_REMEMBERED = 30  # seconds


def keep(values: Mapping[str, Any]) -> None:
    """Put down these values, which are JSON, as what is known now."""
    rows = [Kept(name=name, value=json.dumps(value), at=JitNow()) for name, value in values.items()]
    Kept.objects.bulk_create(rows, update_conflicts=True, unique_fields=["name"], update_fields=["value", "at"])


def kept(name: str, make: Callable[[], Any], at: datetime) -> Any:
    """What was kept under this name; or else, for a while, what `make` says (JSON) to who happens to ask first."""
    told = _latest().get(name)
    if told and at - told[0] < FRESH:
        return json.loads(told[1])
    found = cache.get(key := f"kept:{name}")
    if found is None:
        found = json.dumps(make())
        cache.set(key, found, _REMEMBERED)
    return json.loads(found)


@once
def _latest() -> dict[str, tuple[datetime, str]]:
    """All of them in one query: pages read most."""
    return {name: (at, value) for name, at, value in Kept.objects.values_list("name", "at", "value")}
