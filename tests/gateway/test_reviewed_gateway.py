"""What a critical reading of the gateway found: ends told twice, calls nobody waits for, one taking from all."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from jitaccess.audit import recorder
from jitaccess.audit.events import Event, Outcome
from jitaccess.egress import client as client_module
from jitaccess.egress.errors import EgressFailed
from jitaccess.egress.http1 import Broken, Connection
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.limits import Limits
from jitaccess.gateway.recording.endings import write_endings
from jitaccess.gateway.recording.facts import Ending
from jitaccess.gateway.seeing import subscribing
from jitaccess.gateway.seeing.subscribing import Subscriber, Subscriptions
from jitaccess.gateway.talking import elsewhere, mail
from jitaccess.gateway.upstream import answers
from jitaccess.gateway.upstream import pool as pool_module
from jitaccess.gateway.upstream.breaker import FREE_CALLS, Breaker
from jitaccess.gateway.upstream.errors import UpstreamError
from jitaccess.gateway.upstream.pool import Pool
from jitaccess.gateway.wire import RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.policy.models import BindingUse
from tests.cast import Cast
from tests.gateway.harness import Served, echo, eventually, settled, told
from tests.gateway.relaying import FORM, able, ask
from tests.gateway.test_continuations import Desk
from tests.gateway.upstream.conftest import fake
from tests.gateway.upstream.web_server import Seen, WebServer, clients, connected, serving


@pytest.mark.django_db(transaction=True)
def test_a_call_that_is_said_twice_not_to_have_been_sent_gives_its_use_back_once(cast: Cast) -> None:
    binding, desk = cast.limited(2), Desk(cast)
    (admitted,) = desk.admit(desk.intent())
    again = Ending(admitted, Event.CALL_NOT_SENT, Outcome.ERROR, {"why": "nobody heard"})
    write_endings([again, again], instance=desk.instance)
    assert told() == ["call.authorized", "call.not_sent"]
    assert BindingUse.objects.get(pk=binding.pk).left == 2
    write_endings([again], instance=desk.instance)
    assert told() == ["call.authorized", "call.not_sent"]


@pytest.mark.django_db(transaction=True)
def test_of_two_different_ends_of_a_call_the_first_is_on_record(cast: Cast) -> None:
    desk = Desk(cast)
    (admitted,) = desk.admit(desk.intent("git_log"))
    ends = [Ending(admitted, event, Outcome.ERROR, {}) for event in (Event.CALL_FAILED, Event.CALL_OUTCOME_UNKNOWN)]
    write_endings(ends, instance=desk.instance)
    assert told() == ["call.authorized", "call.failed"]


@pytest.mark.django_db(transaction=True)
def test_a_session_of_the_older_era_cannot_take_over_a_call_that_waits_for_a_newer_client(
    cast: Cast, start: Any, record: Any
) -> None:
    served: Served = start({"git": echo(record, era="legacy")})
    arguments = {"do": "ask", "method": "elicitation/create", "params": FORM}
    with served.client(cast) as modern, served.client(cast) as older:
        state = ask(modern, "git_log", arguments)["result"]["requestState"]
        able(older, {})
        params = {"name": "git_log", "arguments": arguments, "requestState": state, "inputResponses": {}}
        assert "result" in older.post(older.message("tools/call", params)).json(), "a call of its own"
        assert len(served.gateway.parked) == 1, "still there for whom it waits"
    served.stop()
    assert eventually(settled)


@pytest.mark.pure
def test_a_name_of_megabytes_is_not_what_is_remembered_of_it() -> None:
    before = recorder._what_columns.cache_info().currsize
    columns = recorder.what_columns(None, "", "x" * 1_000_000)
    assert columns == recorder.what_columns(None, "", "x" * 999_999)
    assert recorder._what_columns.cache_info().currsize <= before + 1
    assert columns[2] == "x" * 199 + "…"


@pytest.mark.pure
def test_a_connection_that_is_lost_before_anything_is_asked_is_broken() -> None:
    async def work() -> None:
        connection = Connection(asyncio.get_running_loop(), lambda _: None)
        with pytest.raises(Broken):
            connection.ask(b"GET / HTTP/1.1\r\n\r\n")

    asyncio.run(work())


@pytest.mark.pure
def test_streams_that_stay_open_take_no_place_from_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PER_ORIGIN", 1)
    monkeypatch.setattr(client_module, "MAX_STREAMS", 1)

    async def stay(seen: Seen) -> Any:
        return await seen.stream(b": here\n\n", end=False)

    async def work() -> None:
        server = WebServer("legacy", on={"GET": stay})
        async with serving(server), clients() as client:
            url, accept = server.config().url, {"Accept": "text/event-stream"}
            stream = await client.send("GET", url, headers=accept, lasting=True)
            with pytest.raises(EgressFailed) as caught:
                await client.send("GET", url, headers=accept, lasting=True)
            assert (caught.value.code, caught.value.sent) == ("egress.busy", False)
            for _ in range(2):
                (await client.send("DELETE", url, headers={})).close()
            assert list(client._busy.values()) == [1]
            stream.close()
            assert not client._busy

    asyncio.run(work())


@pytest.mark.pure
def test_who_alone_makes_a_server_answer_with_an_error_takes_it_from_nobody() -> None:
    breaker = Breaker(lambda: 1000.0)
    failed = UpstreamError("upstream.unavailable", "HTTP 500.", sent=True)
    for _ in range(FREE_CALLS + 1):
        breaker.answered(failed, "mallory")
    assert breaker.wait("mallory") > 0
    assert breaker.wait("alice") == 0.0
    nobody = Breaker(lambda: 1000.0)
    for _ in range(FREE_CALLS + 1):
        nobody.answered(UpstreamError("upstream.unavailable", "Nobody there."), "mallory")
    assert nobody.wait("alice") > 0


@pytest.mark.pure
def test_who_declares_ever_other_capabilities_takes_no_process_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_OF_ONE", 2)

    async def work() -> None:
        pool = Pool({"git": fake("legacy")}.get, max_connections=3)
        declared: list[Any] = [{"roots": {}}, {"sampling": {}}]
        for capabilities in declared:
            await pool.connection("git", "mallory", capabilities=capabilities)
        with pytest.raises(UpstreamError) as caught:
            await pool.connection("git", "mallory", capabilities={"elicitation": {}})
        assert (caught.value.code, caught.value.sent) == ("upstream.busy", False)
        assert (await pool.connection("git", "alice")).alive
        monkeypatch.setattr(pool_module, "EVICTABLE_SECONDS", -1)
        assert (await pool.connection("git", "mallory", capabilities={"elicitation": {}})).alive, "in place of one"
        assert pool.children == 3
        await pool.close()

    asyncio.run(work())


@pytest.mark.pure
def test_so_many_sessions_of_one_principal_subscribe_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribing, "MAX_SESSIONS", 2)

    async def work() -> None:
        gateway: Any = SimpleNamespace(mail=mail.Postbox())
        subscriptions = Subscriptions(gateway)
        monkeypatch.setattr(subscriptions, "_add", _nothing)
        monkeypatch.setattr(subscriptions, "_pass_on", _nothing)
        mallory, alice = (Principal(agent=uuid4()) for _ in range(2))
        at = Endpoint(uuid4(), "git")
        for session in ("1", "2", "2"):
            await subscriptions.subscribe(Subscriber(mallory, at, session=session), "memo://x")
        with pytest.raises(RpcError):
            await subscriptions.subscribe(Subscriber(mallory, at, session="3"), "memo://x")
        await subscriptions.subscribe(Subscriber(alice, at, session="3"), "memo://x")
        assert len(subscriptions._all) == 3

    asyncio.run(work())


@pytest.mark.pure
def test_a_large_answer_is_read_where_it_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[bool, str]] = []
    decode = strictjson.decode

    def noted(body: bytes) -> Any:
        read.append((len(body) > answers.LARGE_ANSWER, threading.current_thread().name.partition("_")[0]))
        return decode(body)

    monkeypatch.setattr(answers, "strictjson", SimpleNamespace(decode=noted))
    content: list[Any] = [{"type": "text", "text": "x" * answers.LARGE_ANSWER}]

    async def streamed(seen: Seen) -> Any:
        return await seen.stream(seen.result({"resultType": "complete", "content": content}))

    async def plain(seen: Seen) -> Any:
        return seen.json({"resultType": "complete", "content": content})

    async def work() -> None:
        for handler in (plain, streamed):
            async with connected(WebServer("modern", on={"tools/call": handler})) as connection:
                assert (await connection.request("tools/call", {"name": "x"}, timeout=10))["content"] == content

    asyncio.run(work())
    assert set(read) == {(False, "MainThread"), (True, "large-answers")}


@pytest.mark.pure
def test_a_call_that_another_process_never_answers_for_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def send(to: Any, content: Any) -> bool:
        sent.append(content["kind"])
        return True

    monkeypatch.setattr(elsewhere, "MAIL_SECONDS", 0.0)
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(elsewhere, "_packed", lambda call: {})
    monkeypatch.setattr(mail, "send", send)
    monkeypatch.setattr(mail, "is_alive", lambda to: True)

    async def db(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    async def work() -> None:
        store = SimpleNamespace(current=SimpleNamespace(servers={}))
        gateway: Any = SimpleNamespace(
            mail=mail.Postbox(), db=db, instance=uuid4(), store=store, call_timeout=0.05, limits=Limits.configured()
        )
        call: Any = SimpleNamespace(target=SimpleNamespace(server=None), principal=Principal(agent=uuid4()))
        with pytest.raises(RpcError, match="not known"):
            await elsewhere.Elsewhere(gateway, _nothing).carry(call, uuid4())
        assert sent == ["resume", "cancel"]

    asyncio.run(work())


async def _nothing(*_: Any) -> Any:
    return {}
