"""Open streams: who is told that the list changed, and when a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection

from jitaccess.catalog.models import AccessClass
from jitaccess.catalog.services import classify_tool
from jitaccess.gateway import core, http
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.http import EventStream
from jitaccess.gateway.seeing import streams as streams_module
from jitaccess.gateway.seeing.streams import Frames
from jitaccess.identity.models import AccessToken
from jitaccess.identity.services import create_agent, issue_token, revoke_token, set_agent_enabled
from jitaccess.kernel.ids import token_hash
from requests_app.services import revoke_grant
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, Stream, eventually
from tests.mcp_client import LEGACY, MODERN, connect

pytestmark = pytest.mark.django_db(transaction=True)
MANY = str(Path(__file__).with_name("many_clients.py"))


@contextlib.contextmanager
def everybody(cast: Cast, *served: Served) -> Iterator[list[Stream]]:
    """A modern and a legacy stream of the demo agent on each gateway."""
    with contextlib.ExitStack() as stack:
        found = []
        for one in served:
            for legacy in (False, True):
                client = stack.enter_context(one.client(cast))
                if legacy:
                    client.initialize()
                found.append(stack.enter_context(client.listen()))
                assert found[-1].response.status_code == 200
            assert eventually(lambda one=one: len(one.gateway.streams._open) >= 2)
        yield found


def watching(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """From now on its watcher looks after streams only while this is set, which it is not yet."""
    streams, looks = gateway.gateway.streams, threading.Event()
    refresh = streams.refresh

    async def refreshed(*seen: Any) -> Any:
        return await refresh(*seen) if looks.is_set() else None

    monkeypatch.setattr(streams, "refresh", refreshed)
    return looks


def test_every_change_of_the_list_reaches_every_stream_of_the_principal_in_every_process(
    cast: Cast, clock: Clock, start: Callable[..., Served]
) -> None:
    first, second = start(), start()
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    with (
        everybody(cast, first, second) as streams,
        first.client(cast, agent=other) as stranger,
        stranger.listen() as elsewhere,
    ):
        grant = cast.grant(seconds=600)
        for stream in streams:
            stream.changed()
        revoke_grant(grant_id=grant.pk, user=cast.anna)
        for stream in streams:
            stream.changed()
        grant = cast.grant("git_add", seconds=600)
        for stream in streams:
            stream.changed()
        # By the clock alone: nothing is written when a grant runs out.
        clock.at(grant.expires_at - timedelta(seconds=1.5))
        for stream in streams:
            stream.changed()
        assert elsewhere.quiet
        grant = cast.grant("git_reset", seconds=600)
        for stream in streams:
            stream.changed()
        with first.client(cast) as agent:
            agent.use("release_access", grant_id=str(grant.pk))
        for stream in streams:
            stream.changed()
        assert elsewhere.quiet
        classify_tool(tool=cast.tools["git_add"], access=AccessClass.READ, operator=cast.operator)
        for stream in (*streams, elsewhere):
            stream.changed()
        set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
        for stream in streams:
            stream.changed()
        assert elsewhere.quiet
        assert all(stream.quiet and not stream.ended.is_set() for stream in streams)


def test_a_grant_that_runs_out_is_told_at_its_edge_and_not_a_poll_later(
    cast: Cast, agent: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = cast.grant(seconds=60)
    clock.at(grant.expires_at - timedelta(seconds=1.2))
    with agent.listen() as stream:
        monkeypatch.setattr(core, "POLL_SECONDS", 600.0)  # by polling it would not be told before this test has failed
        stream.changed(within=30)
        assert clock.now() >= grant.expires_at
        assert agent.tools()["git_commit"].startswith("[LOCKED")


def test_a_change_right_after_the_acknowledgement_is_never_lost(
    cast: Cast, gateway: Served, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The watcher does not come by between the acknowledgement and the change.
    changed = watching(gateway, monkeypatch)
    with agent.listen() as stream:
        cast.grant()
        changed.set()
        stream.changed()


def test_a_grant_is_told_even_if_nobody_saw_that_the_one_before_it_had_ended(
    cast: Cast, gateway: Served, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = watching(gateway, monkeypatch)
    looks.set()
    with agent.listen() as stream:
        first = cast.grant()
        stream.changed()
        looks.clear()
        revoke_grant(grant_id=first.pk, user=cast.anna)
        cast.grant()
        looks.set()
        stream.changed()
        assert stream.quiet


def test_frames_of_a_modern_stream_carry_its_id_and_only_what_was_asked_for(cast: Cast, agent: Client) -> None:
    with agent.listen(toolsListChanged=True, promptsListChanged=True, resourceSubscriptions=["x"]) as stream:
        params = stream.acknowledged["params"]
        assert stream.acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert params["notifications"] == {"toolsListChanged": True}
        listen_id = params["_meta"]["io.modelcontextprotocol/subscriptionId"]
        cast.grant()
        event = stream.next()
        assert event["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == listen_id
        assert stream.response.headers["x-accel-buffering"] == "no"
    with agent.listen(promptsListChanged=True) as deaf, agent.listen() as hearing:
        assert deaf.acknowledged["params"]["notifications"] == {}
        cast.grant("git_add")
        hearing.changed()
        assert deaf.quiet
    for wrong in (None, [], "toolsListChanged"):
        answer = agent.post(agent.message("subscriptions/listen", {"notifications": wrong}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


def test_changes_that_do_not_change_the_list_are_not_told(cast: Cast, agent: Client) -> None:
    with agent.listen() as stream:
        cast.carl.first_name = "Carl"
        cast.carl.save()
        cast.change_policy(pending="5m")
        cast.submit()
        cast.grant("git_add")
        stream.changed()
        assert stream.quiet


def test_a_stream_ends_with_its_token(cast: Cast, gateway: Served, clock: Clock) -> None:
    with everybody(cast, gateway) as lasting, gateway.client(cast, ttl=600) as short, gateway.client(cast) as revoked:
        old = Client(short.url, short.token).initialize()
        with short.listen() as first, old.listen() as second, revoked.listen() as third:
            assert revoked.row
            revoke_token(token=revoked.row, operator=cast.operator)
            assert third.next()["result"]["resultType"] == "complete"
            assert third.ended.wait(5)
            assert not first.ended.is_set()
            clock.shift(601)
            assert first.next()["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
            assert first.ended.wait(5)
            assert second.ended.wait(5)
            assert second.quiet
        old.http.close()
        assert not any(stream.ended.is_set() for stream in lasting)
        assert eventually(lambda: len(gateway.gateway.streams._open) == 2)


def test_a_stream_ends_gracefully_when_the_gateway_stops(cast: Cast, gateway: Served) -> None:
    with everybody(cast, gateway) as (modern, old):
        gateway.stop()
        assert modern.next()["result"]["resultType"] == "complete"
        assert modern.ended.wait(5)
        assert old.ended.wait(5)
        assert old.quiet


def test_streams_of_one_principal_are_capped(cast: Cast, gateway: Served, agent: Client) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(agent.listen()) for _ in range(streams_module.MAX_PER_PRINCIPAL)]
        with agent.listen() as refused:
            assert refused.response.status_code == 429
            refused.response.read()
            assert "16" in refused.response.json()["error"]["message"]
        with gateway.client(cast, user=cast.olga) as another, another.listen() as stream:
            assert stream.response.status_code == 200
        opened[0].hang_up()
        assert eventually(lambda: len(gateway.gateway.streams._open) == streams_module.MAX_PER_PRINCIPAL - 1)
        with agent.listen() as again:
            assert again.response.status_code == 200


def test_a_stream_whose_client_left_is_forgotten(gateway: Served, agent: Client, legacy: Client) -> None:
    for client in (agent, legacy):
        with client.listen() as stream:
            assert eventually(lambda: gateway.gateway.streams._open)
            stream.hang_up()
        assert eventually(lambda: not gateway.gateway.streams._open)


def test_a_get_without_a_session_or_without_events_is_refused(agent: Client, legacy: Client) -> None:
    stream = {"accept": "text/event-stream"}
    assert agent.http.get(agent.endpoint, headers=agent.headers() | stream).status_code == 400
    assert (
        legacy.http.get(legacy.endpoint, headers=legacy.headers() | {"accept": "application/json"}).status_code == 405
    )


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_streams_end_when_policy_could_not_be_checked_for_three_seconds(
    cast: Cast, gateway: Served, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    away = threading.Event()
    look = gateway.gateway.store.catch_up

    def unreachable(version: int) -> Any:
        if how == "hangs":
            away.wait(20)
        if not away.is_set():
            raise OperationalError("the database is away")
        return look(version)

    with everybody(cast, gateway) as opened:
        monkeypatch.setattr(gateway.gateway.store, "catch_up", unreachable)
        for stream in opened:
            assert stream.ended.wait(8), "a blind process keeps a stream open"
        away.set()
    with gateway.client(cast) as agent, agent.listen() as stream:
        cast.grant()
        stream.changed()


@pytest.mark.parametrize("era", [MODERN, LEGACY])
def test_the_official_client_hears_of_a_grant_and_uses_it(cast: Cast, gateway: Served, era: str) -> None:
    with gateway.client(cast) as issued:
        token = issued.token

    async def scenario() -> None:
        async with connect(gateway.url, token, era=era) as agent:
            assert (await agent.call("git_commit")).is_error
            await asyncio.to_thread(_grant, cast)
            await agent.next_change()
            assert not (await agent.tools())["git_commit"].startswith("[LOCKED")
            assert not (await agent.call("git_commit", message="m")).is_error

    asyncio.run(scenario())


def _grant(cast: Cast) -> None:
    try:
        cast.grant()
    finally:
        connection.close()


def test_a_thousand_streams_cost_little_and_all_hear_of_a_change(cast: Cast, gateway: Served) -> None:
    agents = [
        create_agent(name=f"agent-{number}", owner=cast.olga, team=cast.team, operator=cast.operator)
        for number in range(63)
    ]
    tokens = [issue_token(agent=agent, user=None, ttl=3600, operator=cast.operator)[0] for agent in agents]
    port, streams = gateway.url.rpartition(":")[2], gateway.gateway.streams
    with subprocess.Popen(
        [sys.executable, "-I", "-S", MANY, port, "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as clients:
        assert clients.stdin
        assert clients.stdout
        before = resident()
        print(*(tokens * 16)[:1000], sep="\n", file=clients.stdin, flush=True)
        assert clients.stdout.readline() == "open\n"
        assert len(streams) == 1000
        assert resident() - before < 1000 * 30_000
        classify_tool(tool=cast.tools["git_add"], access=AccessClass.READ, operator=cast.operator)
        print(30, file=clients.stdin, flush=True)
        assert clients.stdout.readline().split()[0] == "1000"
        # None of them has a task of its own beside the one that serves its request.
        assert sum(stream.writing is not None for stream in list(streams._open)) == 0
        revoke = AccessToken.objects.get(hash=token_hash(tokens[0]))
        revoke_token(token=revoke, operator=cast.operator)
        eventually(lambda: len(streams) == 1000 - 16)
    eventually(lambda: not len(streams))
    assert not streams._groups
    assert not streams._of_token


def test_with_many_tokens_each_has_its_turn_and_a_revoked_one_does_not_wait_for_it(
    cast: Cast, gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "TOKENS_AT_ONCE", 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.client(cast)) for _ in range(4)]
        opened = [stack.enter_context(client.listen()) for client in clients]
        gone = clients[2].row
        assert gone
        revoke_token(token=gone, operator=cast.operator)
        assert opened[2].ended.wait(5)
        AccessToken.objects.filter(pk=clients[1].row.pk).delete()  # type: ignore[union-attr]
        assert opened[1].ended.wait(10)
        assert not opened[0].ended.is_set()
        assert not opened[3].ended.is_set()


def test_with_many_tokens_an_issuer_who_is_gone_is_noticed_for_all_of_them_at_once(
    cast: Cast, gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module.Streams, "tokens", lambda self: [])  # it is nobody's turn
    monkeypatch.setattr(streams_module, "TOKENS_AT_ONCE", 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.client(cast)) for _ in range(3)]
        opened = [stack.enter_context(client.listen()) for client in clients]
        AccessToken.objects.filter(pk__in=[one.row.pk for one in clients[:2] if one.row]).update(issued_by=cast.bert)
        cast.bert.is_active = False
        cast.bert.save()
        assert all(one.ended.wait(5) for one in opened[:2])
        assert not opened[2].ended.is_set()


@pytest.mark.pure
def test_a_stream_whose_client_does_not_read_is_given_up(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOW_SECONDS", 0.1)

    class Stuck(EventStream):
        async def open(self) -> None: ...

        async def message(self, value: Any) -> None:
            await asyncio.Event().wait()

    async def scenario() -> None:
        stream = streams_module.Stream(cast.principal(), Endpoint())

        async def serve() -> None:
            await stream.begin(Stuck(None), Frames(lambda method, uri: {}, None))  # type: ignore[arg-type]
            await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        await asyncio.sleep(0)
        stream.tell("notifications/tools/list_changed")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(serving, 5)
        assert stream.lost

    asyncio.run(scenario())


@pytest.mark.pure
def test_what_is_told_while_a_stream_is_written_to_is_said_once(cast: Cast) -> None:
    said: list[str] = []

    class Out(EventStream):
        async def open(self) -> None: ...

        async def message(self, value: Any) -> None:
            said.append(value["method"])

    async def scenario() -> None:
        stream = streams_module.Stream(cast.principal(), Endpoint())
        await stream.begin(Out(None), Frames(lambda method, uri: {"method": method}, None))  # type: ignore[arg-type]
        for _ in range(100):
            stream.tell("a")
            stream.tell("b")
        while len(said) < 2:
            await asyncio.sleep(0.01)
        stream.tell("a")
        while len(said) < 3:
            await asyncio.sleep(0.01)
        stream.shut()

    asyncio.run(scenario())
    assert said == ["a", "b", "a"]


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("turns", range(4))
def test_a_wake_up_at_the_very_moment_of_a_stop_does_not_keep_it(gateway: Served, agent: Client, turns: int) -> None:
    agent.ask("tools/list")

    async def stop() -> None:
        watcher = gateway.gateway._tasks[0]
        await asyncio.sleep(0.1)  # it waits for something to happen by then
        gateway.gateway.streams.wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        watcher.cancel()
        await asyncio.wait({watcher}, timeout=5)
        assert watcher.cancelled()

    gateway.run(stop())
