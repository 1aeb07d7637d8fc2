"""A whole installation: web, gateway, worker and beat as processes of their own, on PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.installation import Installation, Process, eventually
from tests.mcp_client import MODERN, connect
from tests.redis import Redis

pytestmark = pytest.mark.postgresql_only


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = Redis("a-password-of-redis").start()
    yield server
    server.stop()


@pytest.fixture
def whole(installation: Installation, redis: Redis) -> dict[str, Process]:
    installation.environment |= {"REDIS_URL": redis.url}
    found = {role: installation.launch(role) for role in ("web", "gateway", "worker", "beat")}
    for process in found.values():
        process.wait_ready()
    return found


def _ready(process: Process) -> dict[str, bool]:
    answer = httpx2.get(f"{process.url}/readyz", timeout=10)
    checks = {check["name"]: check["ok"] for check in answer.json()["checks"]}
    assert (answer.status_code == 200) == answer.json()["ready"] == all(checks.values())
    return checks


def _sequenced(installation: Installation) -> bool:
    return not installation.query("SELECT 1 FROM jit_audit_unsequenced")


def _expiries(installation: Installation) -> int:
    return len(installation.ledger("grant.expired"))


def test_the_loop_needs_no_redis_and_what_tidies_up_survives_its_restart(
    installation: Installation, whole: dict[str, Process], redis: Redis
) -> None:
    web, gateway = whole["web"], whole["gateway"]
    token = installation.ready_token
    shift = 0.0

    async def one_loop(agent: object, anna: object) -> None:
        asked = await agent.call("request_access", tools=["git_add"], reason="to stage", minutes=5)  # type: ignore[attr-defined]
        request_id = asked.structured_content["request_id"]
        decided = await asyncio.to_thread(anna.decide, request_id, "approve")  # type: ignore[attr-defined]
        assert decided.status_code == 200
        await agent.next_change()  # type: ignore[attr-defined]
        used = await agent.call("git_add", repo_path=".", files=["notes.md"])  # type: ignore[attr-defined]
        assert not used.is_error
        nonlocal shift
        shift += 301
        await asyncio.to_thread(installation.shift_clock, shift)
        refused = await agent.call("git_add", repo_path=".", files=["notes.md"])  # type: ignore[attr-defined]
        assert refused.is_error

    async def use() -> None:
        anna = await asyncio.to_thread(installation.sign_in, "anna", web.url)
        async with connect(gateway.url, token, era=MODERN) as agent:
            await one_loop(agent, anna)
            await asyncio.to_thread(eventually, lambda: _expiries(installation) == 1, within=20, what="tidied")
            redis.stop()
            # Nobody asks Redis anything: this works as it did.
            await one_loop(agent, anna)
            await asyncio.to_thread(eventually, lambda: _sequenced(installation), what="sequenced without Redis")
            assert _expiries(installation) == 1
            redis.start()
            await asyncio.to_thread(eventually, lambda: _expiries(installation) == 2, within=40, what="tidied again")

    asyncio.run(use())
    for role, process in whole.items():
        assert process.popen.poll() is None, role
        assert all(_ready(process).values()), role
        assert "a-password-of-redis" not in process.output
    # Neither of these has a worker, a beat or a sequencer in it.
    assert "background" not in _ready(web)
    for process in whole.values():
        process.stop(signal.SIGTERM)
        assert process.popen.returncode == 0, process.output
        assert "shutdown failed" not in process.output


def test_a_frozen_redis_stops_nobody_from_stopping(whole: dict[str, Process], redis: Redis) -> None:
    eventually(lambda: all(_ready(whole["worker"]).values()), what="the worker is connected")
    redis.freeze()
    for role in ("beat", "worker"):
        assert whole[role].stop(signal.SIGTERM) < 15
        assert whole[role].popen.returncode == 0, whole[role].output


def test_a_second_beat_waits_until_the_first_is_gone(installation: Installation, whole: dict[str, Process]) -> None:
    first = whole["beat"]
    eventually(lambda: "is at work" in first.output, what="the first leads")
    second = installation.launch("beat").wait_ready()
    assert all(_ready(second).values())
    assert "is at work" not in second.output
    first.stop(signal.SIGKILL)
    eventually(lambda: "is at work" in second.output, what="the second leads")


def test_a_worker_reads_what_to_do_when_something_is_missing(installation: Installation) -> None:
    for role in ("worker", "beat"):
        said = installation.cli(role, check=False)
        assert said.returncode == 1
        assert "needs Redis: set REDIS_URL" in said.stderr
        installation.environment = {"DATABASE_URL": "", "REDIS_URL": "redis://127.0.0.1:1/0"}
        assert "set DATABASE_URL" in installation.cli(role, check=False).stderr
        installation.environment = {}


def test_every_process_logs_json_without_secrets_and_shows_metrics_to_whoever_may(
    installation: Installation, whole: dict[str, Process]
) -> None:
    secret = (installation.var / "secrets/metrics_token").read_text()
    token = installation.ready_token

    async def use() -> None:
        async with connect(whole["gateway"].url, token, era=MODERN) as agent:
            assert not (await agent.call("git_status", repo_path=".")).is_error
            assert (await agent.call("git_add", repo_path=".", files=["notes.md"])).is_error

    asyncio.run(use())
    eventually(lambda: _sequenced(installation), what="sequenced")
    pages = {}
    for role, process in whole.items():
        assert httpx2.get(f"{process.url}/metrics").status_code == 401
        wrong = httpx2.get(f"{process.url}/metrics", headers={"authorization": f"Bearer {secret}x"})
        assert wrong.status_code == 401
        answer = httpx2.get(f"{process.url}/metrics", headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200
        pages[role] = answer.text
        assert f'jitaccess_build_info{{role="{role}"' in answer.text
    assert 'jitaccess_calls_total{outcome="allowed",reason="allowed"} 1.0' in pages["gateway"]
    assert 'jitaccess_calls_total{outcome="denied",reason="' in pages["gateway"]
    assert 'jitaccess_forward_seconds_count{server="git"} 1.0' in pages["gateway"]
    assert "jitaccess_policy_version_lag 0.0" in pages["gateway"]
    assert "demo-agent" not in pages["gateway"]
    assert "git_status" not in pages["gateway"]
    for name in ("pending_requests", "live_grants", "ledger_unsequenced", "deliveries_pending"):
        assert f"\njitaccess_{name} 0.0" in pages["web"] + pages["worker"], name
    person = httpx2.get(f"{whole['web'].url}/accounts/login/?next=/secret-query")
    assert person.status_code == 200
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = httpx2.get(f"{whole['web'].url}/accounts/login/", headers={"traceparent": trace})
    assert traced.headers["x-request-id"] == "0af7651916cd43dd8448eb211c80319c"
    assert person.headers["x-request-id"] != traced.headers["x-request-id"]
    eventually(lambda: whole["web"].output.count("/accounts/login/") >= 2, what="two lines in the access log")
    for role, process in whole.items():
        said = [json.loads(line) for line in process.lines if not line.startswith("jitaccess ")]
        assert all({"time", "level", "logger", "message"} <= set(one) for one in said)
        assert secret not in process.output
        assert token not in process.output
        assert "secret-query" not in process.output
        assert not [one for one in said if one["level"] == "error"], role
    told = {one.get("call") for line in whole["gateway"].lines if line.startswith("{") and (one := json.loads(line))}
    assert {str(entry["call"]) for entry in installation.ledger("call.authorized", "call.denied")} <= told


def test_a_process_that_stops_fails_its_readiness_first_and_lets_calls_finish(installation: Installation) -> None:
    process = installation.start("gateway", env={"JITACCESS_DRAIN_SECONDS": "2"})
    token = installation.ready_token

    async def use() -> None:
        async with connect(process.url, token, era=MODERN) as agent:
            process.popen.send_signal(signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: not _ready(process)["serving"], what="not ready")
            # It serves on as long as balancers need to see it.
            assert not (await agent.call("git_status", repo_path=".")).is_error

    with contextlib.suppress(ExceptionGroup):  # the stream of changes ends with the process
        asyncio.run(use())
    process.popen.wait(15)
    assert process.popen.returncode == 0, process.output
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])), timeout=1)


def test_a_second_signal_ends_it_at_once(installation: Installation) -> None:
    process = installation.start("gateway", env={"JITACCESS_DRAIN_SECONDS": "60"})
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: not _ready(process)["serving"], what="not ready")
    assert process.popen.poll() is None
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(5) == 128 + signal.SIGTERM


def test_a_worker_that_ends_by_itself_says_so_to_whoever_starts_it_again(
    whole: dict[str, Process], redis: Redis
) -> None:
    worker = whole["worker"]
    eventually(lambda: all(_ready(worker).values()), what="the worker is connected")
    redis.ask("ACL", "SETUSER", "default", "-brpop")
    assert worker.popen.wait(30) == 1
