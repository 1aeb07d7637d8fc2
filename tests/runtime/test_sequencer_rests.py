"""The sequencer lets calls go first, until entries have waited for long."""

from __future__ import annotations

import pytest

from jitaccess.runtime import background


@pytest.mark.parametrize(
    ("placed", "took", "behind", "rests"),
    [
        (3, 0.001, 0.1, background.BETWEEN_SECONDS),
        (3, 0.1, 0.1, 0.3),
        (background.AT_ONCE, 0.001, 0.1, background.BEHIND_SECONDS),
        (background.AT_ONCE, 0.02, 0.1, 0.06),
        (background.AT_ONCE + 40, 0.02, 2.9, 0.06),
        (60, 0.001, 0.5, background.BEHIND_SECONDS),  # few bundles are looked at in a step, however small they are
        (background.AT_ONCE, 0.02, 3.1, background.BEHIND_SECONDS),
        (60, 10.0, 60.0, background.BEHIND_SECONDS),
    ],
)
def test_it_rests_for_as_long_as_a_step_took_three_times_unless_it_is_late(
    placed: int, took: float, behind: float, rests: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "behind", lambda: behind)
    assert background._rest(placed, took) == pytest.approx(rests)
