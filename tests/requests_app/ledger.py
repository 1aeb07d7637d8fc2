"""Counting what the ledger gained: one entry for each change of state, none for a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import JitAccessError
from requests_app.models import AccessRequest, Decision, Grant


def events() -> list[str]:
    return list(Entry.objects.order_by("uid").values_list("event", flat=True))


@contextmanager
def gains(*expected: str) -> Iterator[None]:
    """What is done inside adds exactly these entries, in any order."""
    before = events()
    yield
    after = events()
    assert after[: len(before)] == before
    assert sorted(after[len(before) :]) == sorted(expected)


def _state() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (AccessRequest, Decision, Grant)]


@contextmanager
def refused(code: str, match: str = "") -> Iterator[None]:
    """What is done inside is refused with `code`, and changes nothing: no row, no entry."""
    before = _state()
    with gains(), pytest.raises(JitAccessError, match=match or None) as caught:
        yield
    assert caught.value.code == code, (caught.value.code, caught.value.detail)
    assert _state() == before
