from __future__ import annotations

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session

from jitaccess.identity.sessions import SessionStore
from tests.clocks import Clock

AGE = settings.SESSION_COOKIE_AGE


@pytest.mark.django_db
def test_a_session_ends_by_the_clock_of_the_database(clock: Clock) -> None:
    session = SessionStore()
    session["who"] = "anna"
    session.save()
    clock.shift(AGE - 60)
    assert SessionStore(session.session_key).load() == {"who": "anna"}
    SessionStore.clear_expired()
    clock.shift(61)
    assert SessionStore(session.session_key).load() == {}
    assert Session.objects.count() == 1
    SessionStore.clear_expired()
    assert Session.objects.count() == 0


@pytest.mark.django_db
def test_one_that_is_saved_later_ends_later(clock: Clock) -> None:
    clock.shift(-AGE)  # by the host's clock it would have ended when it began
    session = SessionStore()
    session.save()
    clock.shift(100)
    assert SessionStore(session.session_key).load() == {}
    assert SessionStore(session.session_key).exists(session.session_key)
    session["who"] = "anna"
    session.save()
    clock.shift(AGE - 50)
    assert SessionStore(session.session_key).load() == {"who": "anna"}
