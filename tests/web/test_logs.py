"""What the log says, through the logging that the settings configure."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import Client

from jitaccess.identity.services import issue_sign_in_link
from jitaccess.kernel.discreet import DiscreetFormatter
from tests.cast import OPERATOR, Cast


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the console handler of settings.LOGGING writes."""
    (handler,) = [one for one in logging.root.handlers if isinstance(one.formatter, DiscreetFormatter)]
    assert handler.get_name() == "console"
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield stream
    handler.setStream(before)


def test_a_live_sign_in_link_does_not_get_into_the_log(cast: Cast, log: io.StringIO) -> None:
    token = issue_sign_in_link(user=cast.anna, ttl=600, operator=OPERATOR)
    response = Client(enforce_csrf_checks=True).post(f"/sign-in/{token}/")
    assert response.status_code == 403
    assert "django.security.csrf" in log.getvalue()
    assert "/sign-in/…/" in log.getvalue()
    assert token not in log.getvalue()


def test_nor_with_what_breaks_on_it(log: io.StringIO) -> None:
    for text in ("/sign-in/in_secret/", "https://x.test/sign-in/in_secret?next=/", "%2Fsign-in%2Fin_secret%2F"):
        error = RuntimeError(f"broke at {text}")
        logging.getLogger("django.request").error("Internal Server Error: %s", text, exc_info=error)
    said = log.getvalue()
    assert said.count("RuntimeError: broke at ") == 3
    assert said.count("sign-in") == 6
    assert "in_secret" not in said


def test_a_strange_host_is_one_line(db: None, log: io.StringIO) -> None:
    assert Client().get("/", headers={"host": "evil.example"}).status_code == 400
    assert "Invalid HTTP_HOST header: 'evil.example'" in log.getvalue()
    assert log.getvalue().count("\n") == 1
    assert "Traceback" not in log.getvalue()


def test_other_failures_keep_their_traceback(cast: Cast, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitaccess.web.desk.views.selectors.desk_of", lambda user, **_: 1 / 0)
    client = Client(raise_request_exception=False)
    client.force_login(cast.anna, backend=settings.AUTHENTICATION_BACKENDS[0])
    assert client.get("/").status_code == 500
    assert "ZeroDivisionError" in log.getvalue()
