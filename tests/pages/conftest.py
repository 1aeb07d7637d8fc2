from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from django.test import override_settings
from playwright.sync_api import Browser

from tests.browser import launched
from tests.clocks import Clock
from tests.pages.people import World
from tests.pages.site import SITE, beside
from tests.pages.world import build

INSTALLATION = {
    "PUBLIC_URL": SITE,
    "NOTIFY_CHANNELS": ["console", "email"],
    "OIDC_ISSUER": "https://sso.example", "OIDC_NAME": "Northwind SSO",
    "EGRESS_ALLOW": ["siem.example", "hooks.example"],
    "SLACK_BOT_TOKEN": "xoxb-1", "SLACK_SIGNING_SECRET": "s", "SLACK_APP_ID": "A1", "SLACK_TEAM_ID": "T1",
    "SLACK_CHANNELS": ["C1"], "SLACK_MODE": "http", "SLACK_ENTERPRISE_ID": "",
}  # fmt: skip


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with beside() as found, launched(found) as browser, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps a loop of its own in this thread
        yield browser


@pytest.fixture(scope="package")
def world(browser: Browser, django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """Made once, and taken back as a whole, with what pages write. After the browser: beside Playwright's loop Django has
    another connection.
    """
    around = transaction.atomic()
    around._from_testcase = True  # type: ignore[attr-defined]  # services insist on the outermost transaction
    with django_db_blocker.unblock(), override_settings(**INSTALLATION):
        around.__enter__()
        try:
            yield build(Clock())
        finally:
            transaction.set_rollback(True)
            around.__exit__(None, None, None)
            cache.clear()
