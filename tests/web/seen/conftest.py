from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Figures are remembered for half a minute."""
    cache.clear()
    yield
    cache.clear()
