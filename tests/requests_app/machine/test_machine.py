"""200 random runs of 50 steps on PostgreSQL (fewer on SQLite), and 10,000 at night; see machine.py and model.py."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.cast import build_cast
from tests.requests_app.machine.machine import Workflow
from tests.requests_app.machine.stage import set_the_stage, standing_still

NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
PARTS = 4  # so that several processes share the runs


@pytest.mark.timeout(6 * 3600 if NIGHTLY else 600)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_people_agents_and_workers_do_the_database_is_what_the_model_says(
    part: int, db: None, postgresql: bool
) -> None:
    often = (10_000, 1_000) if NIGHTLY else (200, 20)
    runs = often[0] if postgresql else often[1]
    began = datetime.now(UTC).replace(microsecond=0)

    class Run(Workflow):
        pass

    with standing_still(began):
        Run.stage = set_the_stage(build_cast(), began)
        Run.stage.commit()
        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=runs // PARTS,
                stateful_step_count=50 if postgresql else 30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
