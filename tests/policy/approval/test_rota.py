"""Who is on call when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jitaccess.policy.approval.rota import is_fresh, on_call

pytestmark = pytest.mark.pure

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
TEAM = ("anna", "ben", "cleo")


@pytest.mark.parametrize(
    ("hours", "who"),
    [(-0.001, None), (0, "anna"), (11.999, "anna"), (12, "ben"), (24, "cleo"), (36, "anna"), (36_000, "anna")],
)
def test_turns_follow_one_another(hours: float, who: str | None):
    assert on_call(TEAM, starts_at=START, hours=12, at=START + timedelta(hours=hours)) == who


def test_a_rota_of_nobody_has_nobody_on_call():
    assert on_call((), starts_at=START, hours=12, at=START) is None
    assert on_call(TEAM, starts_at=START, hours=0, at=START) is None


@pytest.mark.parametrize(("minutes", "fresh"), [(0, True), (10, True), (10.1, False), (-1, False)])
def test_what_a_webhook_said_is_believed_for_ten_minutes(minutes: float, fresh: bool):
    assert is_fresh(START, at=START + timedelta(minutes=minutes)) is fresh


def test_what_was_never_fetched_is_not_believed():
    assert not is_fresh(None, at=START)
