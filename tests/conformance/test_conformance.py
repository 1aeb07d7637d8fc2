"""The official suite against the fixture server directly and through a gateway: nothing differs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.behind import ITS_SCENARIO, LIMITED
from tests.conformance.comparing import WAYS, compare_all
from tests.conformance.report import as_text
from tests.conformance.suite import ABSENT, MODERN, REVISIONS, Check, Run, compare, listed
from tests.installation import Installation


@pytest.mark.timeout(400)
def test_no_check_differs_through_the_gateway_in_either_revision_over_http_and_stdio(
    installation: Installation, tmp_path: Path
) -> None:
    outcome = asyncio.run(compare_all(installation, tmp_path / "found"))
    report = as_text(outcome)
    for revision in REVISIONS:
        assert not outcome.failed_directly(revision), report
    for way in WAYS:
        assert not outcome.unwanted(way), report
        assert outcome.denial_shows(way), f"the denied tool changed nothing, or too much:\n{report}"
    assert outcome.good
    limited = next(way for way in WAYS if way.agent == LIMITED)
    assert {one.scenario for one in outcome.differences(limited)} == {ITS_SCENARIO}
    assert "Intact" in installation.cli("audit", "verify").stdout


def test_a_comparison_sees_another_status_a_missing_check_and_one_made_less_often() -> None:
    good = Check(("SUCCESS",))
    direct = Run(MODERN, {("one", "a"): good, ("one", "b"): good, ("two", "c"): Check(("SUCCESS", "SUCCESS"))})
    assert compare(direct, direct) == []
    failing = replace(good, statuses=("FAILURE",))
    through = Run(MODERN, {("one", "a"): failing, ("two", "c"): good, ("two", "d"): good})
    found = {(one.scenario, one.check): one for one in compare(direct, through)}
    assert found.keys() == {("one", "a"), ("one", "b"), ("two", "c"), ("two", "d")}
    assert found["one", "b"].through is ABSENT
    assert through.failed(frozenset({"one"})) == [("one", "a")]
    assert through.failed(frozenset({"two"})) == []


def test_each_revision_requires_what_the_runs_must_have_seen() -> None:
    for revision in REVISIONS:
        scored, beside = listed(revision, "server"), listed(revision, "not_scored")
        assert len(scored) >= 30
        assert ITS_SCENARIO in scored
        assert not scored & beside
