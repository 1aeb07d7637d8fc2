"""The benchmarks with small numbers: they run, they count, and no guarantee is broken. Never how fast."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bench import peers
from bench.checks import check_upstream
from bench.client import ALLOWED, Answer, Wrong, outcome
from bench.load import PLACE, Line, Tally
from bench.place import MIGRATED
from bench.report import ROOT, Report, quantiles, side_by_side
from bench.sampler import place_of
from bench.targets import Failed
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from tests.installation import ON_POSTGRESQL, eventually
from tests.once import once

DATABASE = "postgresql" if ON_POSTGRESQL else "sqlite"


@pytest.fixture(scope="session", autouse=True)
def schema(migrated: str) -> None:
    """What the processes that are started here take for an empty database."""
    os.environ[MIGRATED] = migrated


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


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """Every measurement with small numbers: what each reported, by scenario."""

    def make(out: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.small", DATABASE, str(out)]
        env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        run = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
        assert out.exists(), run.stdout + run.stderr

    return dict(json.loads(once("small.json", make).read_text()))


def rows(told: dict[str, Any], number: int = 0) -> list[list[str]]:
    """The cells of a table, without its head; every line must be as long as the head."""
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in told["tables"][number].split("\n")]
    assert len({len(line) for line in cells}) == 1
    return cells[2:]


@pytest.mark.pure
@pytest.mark.parametrize(
    "scenario",
    ["capacity", "lists", "latency", "streams", "profile", "startup", "gateway", "workflow_scale", "functions"],
)
def test_what_is_measured_breaks_no_guarantee(small: dict[str, Any], scenario: str) -> None:
    assert small[scenario]["violations"] == []
    assert small[scenario]["tables"]


@pytest.mark.pure
def test_capacity_compares_the_gateway_with_the_same_upstream_without_it(small: dict[str, Any]) -> None:
    figures = small["capacity"]["figures"]
    assert [(row[0], row[1].split(",")[0]) for row in rows(small["capacity"])] == [
        (count, way) for count in ("1", "40") for way in ("direct", "pass-through", "gateway")
    ]
    assert figures["calls"] > 0
    assert figures["calls_per_second_40"] > 0
    gateway = rows(small["capacity"])[-1]
    assert float(gateway[-2]) > 10, "MiB"
    assert bool(gateway[-3]) == ON_POSTGRESQL, "only there the database has processes of its own"


@pytest.mark.pure
def test_lists_are_whole_and_the_locked_half_says_so(small: dict[str, Any]) -> None:
    assert [row[:2] for row in rows(small["lists"])] == [["10", "2"], ["100", "2"]]
    few, many = (float(row[-2]) for row in rows(small["lists"]))
    assert many > few > 1, "KiB"


@pytest.mark.pure
def test_every_gateway_is_waited_for_after_a_decision(small: dict[str, Any]) -> None:
    assert {row[1] for row in rows(small["latency"])} == {"6" if ON_POSTGRESQL else "3"}
    assert len(rows(small["latency"])) == 4
    assert small["latency"]["figures"]["refused_after_approval"] == 0


@pytest.mark.pure
def test_the_steps_of_a_call_and_what_threads_do_are_told_for_each_load(small: dict[str, Any]) -> None:
    steps, threads, parts, places = (rows(small["profile"], number) for number in range(4))
    assert len(steps) == 8
    assert len(threads) == 4
    assert "SQL: driver and database" in {row[0] for row in parts}
    assert any("gateway/recording/batch.py" in row[1] for row in places)
    assert small["profile"]["figures"]["samples"] > 0


@pytest.mark.pure
def test_a_call_enters_no_more_functions_than_so_many(small: dict[str, Any]) -> None:
    assert 100 < small["functions"]["figures"]["python"] < 230
    assert "jitaccess.gateway.calling" in {row[0] for row in rows(small["functions"])}


@pytest.mark.pure
def test_starts_are_timed_until_a_call_is_answered(small: dict[str, Any]) -> None:
    commands = {row[0] for row in rows(small["startup"])}
    assert commands == {"jitaccess gateway" if ON_POSTGRESQL else "jitaccess up", "jitaccess --help"}
    assert all(float(value) > 0 for row in rows(small["startup"]) for value in row[2:])


@pytest.mark.pure
def test_the_gateway_is_measured_beside_what_does_less(small: dict[str, Any]) -> None:
    told = small["gateway"]
    ways = ("direct", "bare pass-through", "jitaccess")
    assert [tuple(row[:2]) for row in rows(told)] == [(count, way) for count in ("1", "4") for way in ways]
    assert told["figures"]["jitaccess at 4"]["cpu_us"] > told["figures"]["bare pass-through at 4"]["cpu_us"] > 0
    assert (told["figures"]["jitaccess at 4"]["database_us"] > 0) == ON_POSTGRESQL
    assert told["figures"]["commit_p50_ms"] > 0
    assert [row[0] for row in rows(told, 3)] == ["added latency at 1 session, p50", "memory of the gateway"]


@pytest.mark.pure
def test_every_stream_is_told_of_every_change(small: dict[str, Any]) -> None:
    assert small["streams"]["figures"]["told"] == [40, 40]


@pytest.mark.pure
def test_lists_are_counted_and_what_was_due_is_ended_once(small: dict[str, Any]) -> None:
    figures = small["workflow_scale"]["figures"]
    assert (figures["ended"], figures["lists"]) == (120, 39)
    assert 8 < figures["most_queries"] <= 20
    assert {row[1] for row in rows(small["workflow_scale"])} == {"superuser", "auditor", "member"}


def test_tables_of_two_databases_become_one_whose_rows_can_be_compared() -> None:
    told = {}
    for database in ("sqlite", "postgresql"):
        report = Report("capacity", database)
        report.compared(("sessions", "calls/s"), [[1, 10.0], [8, 20.0]])
        told[database] = json.loads(json.dumps(report.figures))
    lines = side_by_side("capacity", told).splitlines()
    assert lines[0] == "## capacity, sqlite and postgresql"
    assert lines[2] == "| in the run on | sessions | calls/s |"
    assert lines[4:6] == ["| sqlite | 1 | 10.0 |", "| postgresql | 1 | 10.0 |"]
    assert side_by_side("capacity", {"sqlite": told["sqlite"]}) == ""
    assert side_by_side("revoke", {"sqlite": {}, "postgresql": {}}) == ""


def test_who_waits_for_work_is_in_no_sample() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.ident
    ident = thread.ident
    eventually(lambda: place_of(sys._current_frames()[ident]) is None, what="the thread waits")
    over.set()
    thread.join()
    assert place_of(sys._getframe()) is not None


def test_a_sample_belongs_to_the_innermost_part_and_function_that_is_known() -> None:
    def decode(text: str) -> JsonObject:
        return strictjson.decode(text.encode())

    found: list[tuple[str, str] | None] = []

    def look(*_: object) -> None:
        found.append(place_of(sys._getframe(1)))

    sys.setprofile(look)
    try:
        decode("{}")
    finally:
        sys.setprofile(None)
    assert ("wire", "kernel/strictjson.py decode") in found


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
        "--revokes",
        "1",
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


class Wire:
    """What a connection is to the load, without a network: keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)


def http(text: str, nonce: str, *, chunked: bool = False) -> bytes:
    answer = {"jsonrpc": "2.0", "id": nonce, "result": {"content": [{"type": "text", "text": text}]}}
    body = json.dumps(answer).encode()
    if not chunked:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
    event = b"event: message\r\ndata: " + body + b"\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_load_takes_no_answer_of_another_call_even_once_it_knows_how_answers_look(chunked: bool) -> None:
    async def calls() -> Tally:
        line = Line({"url": "http://127.0.0.1:1/mcp", "tool": "echo", "era": "modern", "tokens": []}, 0)
        wire = Wire()
        line.connection_made(wire)
        request = line.message("tools/call", {"name": "echo", "arguments": {"nonce": PLACE}}, PLACE)
        line.parts = request.split(PLACE.encode())
        tally = Tally(time.monotonic() + 60, 0.0)
        running = asyncio.create_task(line.run(tally, 0.0))
        await asyncio.sleep(0)
        for turn in range(4):
            nonce = line.nonce.decode()
            assert wire.sent[-1].count(line.nonce) == 2, "id and argument"
            answer = http(nonce if turn < 3 else "n00000000000", nonce, chunked=chunked)
            line.data_received(answer[:70])
            line.data_received(answer[70:])
        line.data_received(http(line.nonce.decode(), "n00000000000", chunked=chunked))
        tally.until = 0.0
        line.data_received(http(line.nonce.decode(), line.nonce.decode(), chunked=chunked))
        await running
        return tally

    tally = asyncio.run(calls())
    assert tally.codes == {ALLOWED: 4, "wrong": 2}
    assert len(tally.latencies) == 4
    assert tally.inside == 3


def test_a_peer_that_cannot_be_installed_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PEERS, "nobody", peers.Peer(("no such name",), lambda _: [], "never"))
    monkeypatch.setattr(peers, "_create", lambda _: None)
    with pytest.raises(Failed, match="cannot be installed"):
        peers.install("nobody", tmp_path)
    assert not list(tmp_path.rglob("installed.json"))


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
