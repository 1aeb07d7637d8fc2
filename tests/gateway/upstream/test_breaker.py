"""A server that fails in a row is left alone for a while, then tried by one at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitaccess.gateway.upstream.breaker import FREE_CALLS, PROBE_SECONDS, Breaker
from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.pool import Pool
from jitaccess.store.metrics import REGISTRY

from .conftest import Run, call, fake, is_gone
from .test_pool import Clock, refusal

TIMEOUT = UpstreamError("upstream.timeout", "It did not answer.", sent=True)
BUSY = UpstreamError("upstream.busy", "Too many.")
WRONG = UpstreamError("upstream.invalid_response", "Nonsense.", sent=True)
pytestmark = pytest.mark.pure


def fail(breaker: Breaker, times: int) -> list[bool]:
    return [breaker.answered(TIMEOUT) for _ in range(times)]


def test_it_opens_with_the_fifth_failure_in_a_row_and_waits_ever_longer() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert fail(breaker, FREE_CALLS) == [False] * FREE_CALLS
    assert breaker.wait() == 0.0
    assert fail(breaker, 2) == [True, False], "the second was under way already"
    for wait in (1, 2, 4, 8, 16, 32, 60, 60):
        assert breaker.wait() == wait
        assert "calls in a row failed, the last like this: It did not answer." in breaker.reason
        clock.now += wait
        assert breaker.wait() == 0.0
        assert breaker.wait() == PROBE_SECONDS, "one at a time"
        assert breaker.answered(TIMEOUT) is True


@pytest.mark.parametrize("answer", [None, WRONG])
def test_any_answer_closes_it_and_begins_the_count_anew(answer: UpstreamError | None) -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        fail(breaker, FREE_CALLS)
        breaker.answered(answer)
        assert breaker.closed
    fail(breaker, FREE_CALLS + 1)
    assert not breaker.closed
    breaker.answered(answer)
    assert breaker.wait() == 0.0


def test_what_says_nothing_about_the_server_counts_for_nothing() -> None:
    breaker = Breaker(Clock())
    fail(breaker, FREE_CALLS)
    breaker.answered(BUSY)
    assert breaker.closed
    assert fail(breaker, 1) == [True]
    breaker.answered(BUSY)
    assert not breaker.closed


def test_a_probe_that_is_never_heard_of_holds_up_nobody_for_long() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    fail(breaker, FREE_CALLS + 1)
    clock.now += 1
    assert breaker.wait() == 0.0
    clock.now += PROBE_SECONDS - 1
    assert breaker.wait() == 1.0
    clock.now += 1
    assert breaker.wait() == 0.0


def test_a_start_that_works_forgives_failed_starts_but_not_failed_calls() -> None:
    breaker = Breaker(Clock())
    assert breaker.failed("no such file") is True
    breaker.started(forgive=True)
    assert (breaker.closed, breaker.failures) == (True, 0)
    fail(breaker, FREE_CALLS + 1)
    breaker.started(forgive=True)
    assert not breaker.closed


def test_a_process_that_never_answers_is_left_alone_then_started_anew_and_others_keep_theirs(run: Run) -> None:
    clock, told = Clock(), []

    def is_open() -> Any:
        return REGISTRY.get_sample_value("jitaccess_upstream_open", {"server": "git"})

    async def work() -> None:
        pool = Pool({"git": fake(slug="git")}.get, clock=clock, on_trouble=lambda *said: told.append(said))
        alice, bob = await asyncio.gather(pool.connection("git", "alice"), pool.connection("git", "bob"))
        first = alice.pid or 0
        for _ in range(FREE_CALLS + 1):
            assert await pool.connection("git", "alice") is alice
            with pytest.raises(UpstreamError) as caught:
                await alice.request("tools/call", {"name": "never", "arguments": {}}, timeout=0.02)
            pool.answered(alice, caught.value, "alice")
        assert caught.value.code == "upstream.timeout"
        error = await refusal(pool, "git", "alice")
        assert (error.code, error.params["retry_in"]) == ("upstream.unavailable", 1.0)
        assert "5 calls in a row failed" in error.detail
        assert "is tried again in 1 seconds at the earliest" in error.detail
        assert [slug for slug, _ in told] == ["git"]
        assert is_open() == 1
        assert await pool.connection("git", "bob") is bob, "a process of his own, which did nothing wrong"
        clock.now += 1
        anew = await pool.connection("git", "alice")
        assert anew.pid != first
        assert (await refusal(pool, "git", "alice")).params["retry_in"] == PROBE_SECONDS
        await call(anew, "echo")
        pool.answered(anew, None, "alice")
        assert await pool.connection("git", "alice") is anew
        assert is_open() == 0
        await pool.close()
        assert is_gone(first)

    run(work())


def test_who_waits_in_vain_alone_is_left_alone_himself_and_takes_the_server_from_nobody() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(3 * FREE_CALLS):
        breaker.answered(TIMEOUT, "mallory")
        clock.now += 100
    clock.now -= 100
    assert breaker.wait("mallory") > 0
    assert breaker.wait("alice") == 0.0
    breaker.answered(None, "alice")
    assert breaker.closed, "it answered somebody, so it is there"
    for _ in range(FREE_CALLS + 1):
        breaker.answered(TIMEOUT, "mallory")
    breaker.answered(TIMEOUT, "alice")
    assert breaker.wait("bob") > 0, "two of them, and nobody had an answer in between"


def test_a_server_that_is_not_there_is_so_for_everybody() -> None:
    breaker = Breaker(Clock())
    gone = UpstreamError("upstream.unavailable", "It cannot be reached.", sent=False)
    for _ in range(FREE_CALLS + 1):
        breaker.answered(gone, "alice")
    assert breaker.wait("bob") == 1.0


def test_a_server_that_breaks_off_what_one_caller_asks_is_there_for_the_others() -> None:
    breaker = Breaker(Clock())
    for _ in range(FREE_CALLS + 1):
        breaker.answered(UpstreamError("upstream.died", "The connection broke.", sent=True), "alice")
    assert breaker.wait("alice") == 1.0
    assert breaker.wait("bob") == 0.0
