"""The benchmarks with small numbers: they run, they count, and no guarantee is broken. Never how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.checks import check_upstream
from bench.client import ALLOWED, Answer, Wrong, outcome
from bench.report import ROOT, Report, quantiles
from tests.installation import ON_POSTGRESQL

DATABASE = "postgresql" if ON_POSTGRESQL else "sqlite"


def bench(folder: Path, scenario: str, *options: str) -> dict[str, Any]:
    """Run it as from the command line, in a process of its own; returns its figures."""
    told = folder / "told.json"
    command = [sys.executable, "-m", "bench", scenario, "--database", DATABASE, "--json", str(told), *options]
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    run = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
    assert told.exists(), run.stdout + run.stderr
    found = json.loads(told.read_text())
    assert found["violations"] == [], run.stdout
    assert f"## {scenario} on " in run.stdout
    assert "Violations: 0" in run.stdout
    return dict(found["figures"])


def test_capacity_counts_calls_whose_answers_were_right(tmp_path: Path) -> None:
    figures = bench(tmp_path, "capacity", "--seconds", "0.3", "--rounds", "1", "--sessions", "1,4")
    assert figures["calls"] > 0
    assert figures["calls_per_second_4"] > 0


def test_under_policy_writes_every_agent_gets_calls_through_and_revokes_bind(tmp_path: Path) -> None:
    figures = bench(
        tmp_path,
        "policy-writes",
        "--small",
        "1",
        "--seconds",
        "2",
        "--writes",
        "20",
        "--callers",
        "4",
        "--share",
        "0.3",
    )
    assert figures["writes"] == 40
    assert figures["revokes"] == 2
    assert figures["least_calls"] > 0


@pytest.mark.postgresql_only
def test_no_call_sent_after_the_commit_of_a_revoke_is_let_through(tmp_path: Path) -> None:
    figures = bench(tmp_path, "revoke", "--small", "1", "--trials", "30", "--lanes", "4")
    assert figures["trials"] == 30
    assert figures["after"] >= 4 * 30
    assert figures["in_flight"] > 0


def test_no_call_is_authorized_at_or_after_the_end_of_its_grant(tmp_path: Path) -> None:
    figures = bench(tmp_path, "expiry", "--small", "1", "--calls", "300", "--lanes", "8")
    assert figures["calls"] >= 300
    assert figures["before"] > 0
    assert figures["after"] > 0
    assert figures["both_sides"] > 0


def test_of_fifty_calls_at_once_as_many_get_through_as_the_grant_is_good_for(tmp_path: Path) -> None:
    figures = bench(tmp_path, "uses", "--repeat", "2")
    assert figures["trials"] == 4


NONCE = "n1"
RIGHT = {"content": [{"type": "text", "text": NONCE}]}


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"id": "n2", "result": RIGHT}),
        (200, {"id": NONCE, "result": {"content": [{"type": "text", "text": "n2"}]}}),
        (200, {"id": NONCE, "result": {"content": [], "isError": True}}),
        (200, {"id": NONCE, "error": {"code": -32603, "message": "failed"}}),
        (503, {"id": NONCE, "result": RIGHT}),
    ],
)
def test_the_client_takes_no_answer_that_is_not_right(status: int, answer: dict[str, Any]) -> None:
    with pytest.raises(Wrong):
        outcome(f"HTTP/1.1 {status} X\r\n\r\n".encode(), json.dumps(answer).encode(), NONCE)


def test_the_client_tells_a_result_from_a_refusal() -> None:
    denied = {"isError": True, "content": [], "_meta": {"io.jitaccess/deny": {"reason_code": "revoked"}}}
    for result, code in ((RIGHT, ALLOWED), (denied, "revoked")):
        body = json.dumps({"id": NONCE, "result": result}).encode()
        assert outcome(b"HTTP/1.1 200 OK\r\n\r\n", body, NONCE) == code


def test_a_violation_is_counted_and_told() -> None:
    report = Report("revoke", "PostgreSQL")
    report.check(True, "holds")
    report.check(False, "does not hold")
    assert report.violations == ["does not hold"]
    assert report.markdown().endswith("Violations: 1\n- does not hold")


def test_quantiles_are_of_the_values_there_are() -> None:
    assert quantiles(number / 1000 for number in range(1, 102)) == [51, 96, 100, 101]
    assert quantiles([]) == [0, 0, 0, 0]


def test_a_call_that_reached_the_upstream_though_refused_is_a_violation() -> None:
    class Place:
        def received(self) -> dict[str, list[float]]:
            return {"n1": [1.0], "n2": [1.0], "n3": [1.0, 2.0]}

    answers = [Answer(f"n{number}", 0, "write-0", 0.0, 1.0, code) for number, code in enumerate(
        ["revoked", ALLOWED, "revoked", ALLOWED, ALLOWED])]  # fmt: skip
    report = Report("revoke", "PostgreSQL")
    check_upstream(report, Place(), answers)  # type: ignore[arg-type]
    assert [one.split()[0] for one in report.violations] == ["n2", "n3", "n4"]
