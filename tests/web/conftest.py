from __future__ import annotations

from collections.abc import Callable

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
