from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from jitaccess.identity.models import User


@pytest.fixture
def browser() -> Callable[..., Client]:
    """A browser of somebody who is signed in."""

    def open_browser(user: User, *, csrf: bool = False) -> Client:
        client = Client(enforce_csrf_checks=csrf)
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return open_browser


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time of codes, one step further at each call: an app's code is good once."""
    moment = [time.time()]
    monkeypatch.setattr(time, "time", lambda: moment[0])

    def further() -> None:
        moment[0] += 30

    return further
