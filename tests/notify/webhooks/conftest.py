from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notify.webhooks.listener import Listener, listening


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


@pytest.fixture(autouse=True)
def _loopback(settings) -> None:
    settings.EGRESS_ALLOW = ["127.0.0.1/32"]
    settings.PUBLIC_URL = "https://desk.example"
    settings.NOTIFY_CHANNELS = ["console", "email"]
