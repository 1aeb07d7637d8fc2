"""What a client is told before its result, how a call is cut, and two processes of which only one has the call."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jitaccess.catalog.models import Server
from jitaccess.gateway.limits import MAIL_BURST, MAIL_PER_MINUTE, Rate
from jitaccess.gateway.models import GatewayInstance, Mail
from jitaccess.gateway.presence import Presences
from jitaccess.gateway.talking.relay import MAX_HELD, Reply
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.canonical import digest
from jitaccess.policy.locks import lock
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app.services.end import revoke_grant
from tests.cast import Cast
from tests.gateway.harness import Client, Served, data, echo, eventually, ledger, settled, told
from tests.gateway.relaying import ACCEPT, FORM, able, answered, ask, nothing_is_left, params_of, streaming

Sent = Callable[[], list[dict[str, Any]]]
LEVEL = "io.modelcontextprotocol/logLevel"
ERROR = "io.jitaccess/upstream_error"
ASK = {"do": "ask", "method": "elicitation/create", "params": FORM}

database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def older(start: Callable[..., Served], record: Path) -> Served:
    """A gateway before a server of the older era that also logs."""
    return start({"git": echo(record, "--logging", era="legacy")})


@pytest.fixture
def client(cast: Cast, older: Served) -> Iterator[Client]:
    with older.client(cast) as agent:
        yield agent


@pytest.fixture
def streams_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitaccess.gateway.talking.relay.KEEP_ALIVE_SECONDS", 0.05)


def called(client: Client, arguments: dict[str, Any], **options: Any) -> Any:
    """A call in the newer era whose answer is read as it comes."""
    return streaming(client, "tools/call", params_of("git_log", arguments, **options))


@database
def test_the_log_of_an_older_server_reaches_whoever_wants_it(client: Client, record: Path) -> None:
    with called(client, {"do": "log"}, meta={LEVEL: "warning"}) as stream:
        assert stream.next()["params"] == {"level": "warning", "data": "warning", "_meta": {}}
        assert "result" in stream.next()
    assert '"method":"logging/setLevel","params":{"level":"warning"}' in record.read_text()
    assert "content" in ask(client, "git_log", {"do": "log"})["result"]  # as JSON: nothing is told without a level
    assert ask(client, "git_log", {}, meta={LEVEL: "loud"})["error"]["code"] == -32602


@database
def test_an_older_client_sets_its_level_in_every_process(
    cast: Cast, start: Callable[..., Served], record: Path
) -> None:
    first, second = (start({"git": echo(record, "--logging", era="legacy")}) for _ in range(2))
    with first.client(cast) as client:
        able(client)
        assert client.ask("logging/setLevel", {"level": "loud"})["error"]["code"] == -32602
        assert client.ask("logging/setLevel", {"level": "error"})["result"] == {}
        assert eventually(lambda: second.gateway.levels._levels)
        for url in (first.url, second.url):
            client.url = url
            message = client.message("tools/call", {"name": "git_log", "arguments": {"do": "log"}})
            answer = client.post(message)  # nothing as grave as that was logged, so there is nothing to tell
            assert answer.headers["content-type"] == "application/json"
    assert not Mail.objects.exists()


@database
@pytest.mark.usefixtures("streams_at_once")
def test_a_long_wait_becomes_a_stream_that_shows_signs_of_life(client: Client, tmp_path: Path) -> None:
    with called(client, {"do": "wait", "for": str(tmp_path / "go")}) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        (tmp_path / "go").touch()
        assert stream.next()["result"]["content"][0]["text"]


@database
def test_a_client_that_takes_no_stream_gets_its_result_and_cannot_be_asked(client: Client) -> None:
    message = client.message("tools/call", params_of("git_log", {"do": "log"}, meta={LEVEL: "debug"}))
    response = client.post(message, accept="application/json")
    assert response.json()["result"]["content"]
    able(client)
    message = client.message("tools/call", {"name": "git_log", "arguments": ASK})
    result = client.post(message, accept="application/json").json()["result"]
    assert "reads no event stream" in json.loads(result["content"][0]["text"])["error"]["message"]


@pytest.mark.pure
def test_a_client_that_does_not_read_holds_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitaccess.gateway.http.SLOW_SECONDS", 0.05)

    async def main() -> None:
        async def send(_: Any) -> None:
            await asyncio.sleep(3600)

        reply, lost = Reply(send, events=True), asyncio.Event()
        reply.on_lost = lost.set
        message = {"method": "notifications/message", "params": {"data": "x" * 1000}}
        taken = sum(reply.tell(message) for _ in range(1000))
        assert 0 < taken < MAX_HELD / 1000
        async with asyncio.timeout(5):
            await lost.wait()
        assert not reply.tell(message)
        with pytest.raises(ConnectionError):
            await reply.end(200, {"result": {}})
        await reply.drop()

    asyncio.run(main())


@database
def test_a_request_that_is_refused_before_it_begins_opens_no_answer_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Reply] = []

    class Noted(Reply):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            begun.append(self)

    monkeypatch.setattr("jitaccess.gateway.app.Reply", Noted)
    params = params_of("git_log", {}, meta={"io.modelcontextprotocol/logLevel": "loud"})
    assert client.post(client.message("tools/call", params)).status_code == 400
    assert begun == []
    client.post(client.message("tools/call", params_of("git_log", {})))
    assert [reply._over for reply in begun] == [True]


@database
@pytest.mark.parametrize("how", ["leaves", "does not read"])
def test_a_client_that_leaves_a_flood_ends_its_call_and_nothing_else(
    older: Served, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr("jitaccess.gateway.http.SLOW_SECONDS", 0.2)
    params = params_of("git_log", {"do": "flood", "times": 10_000}, meta={"progressToken": "p"})
    message = client.message("tools/call", params)
    host, _, port = client.url.removeprefix("http://").partition(":")
    body = json.dumps(message).encode()
    lines = client.headers(message) | {"host": host, "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(f"POST /mcp/git HTTP/1.1\r\n{head}\r\n".encode() + body)
        plain.recv(4096)
        if how == "does not read":
            eventually(settled)
    eventually(settled)
    assert told() == ["call.authorized", "call.outcome_unknown"]
    assert data(ledger()[1])["why"] == "the client left or cancelled the call"
    assert eventually(lambda: nothing_is_left(older))
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.pure
def test_a_client_that_leaves_as_its_answer_ends_cancels_nothing_any_more() -> None:
    async def main() -> None:
        async def receive() -> dict[str, str]:
            return {"type": "http.disconnect"}

        task = asyncio.current_task()
        assert task is not None
        with Presences().of(task, receive) as client:  # type: ignore[arg-type]
            client.watch()
            client.listen()
            assert client._listener is not None
            while not client._listener.done():
                await asyncio.sleep(0)
            # Its end is known, and told in the next turn of the loop.
        await asyncio.sleep(0.01)
        assert client.gone
        assert not task.cancelling()

    asyncio.run(main())


@database
@pytest.mark.usefixtures("streams_at_once")
@pytest.mark.parametrize("how", ["revoked", "expired", "disabled", "agent locked", "grant locked", "everything locked"])
def test_a_call_that_runs_when_its_right_ends_is_cut(
    cast: Cast, older: Served, client: Client, record: Path, how: str
) -> None:
    binding = cast.limited(1)
    with streaming(client, "tools/call", params_of("git_commit", {"do": "never"})) as stream:
        eventually(lambda: "never" in record.read_text())
        if how == "revoked":
            revoke_grant(grant_id=binding.origin_id, user=cast.admin)
        elif how == "expired":
            RoleBinding.objects.filter(pk=binding.pk).update(expires_at=now() + timedelta(milliseconds=50))
        elif how.endswith("locked"):
            kind = how.split(maxsplit=1)[0]
            target = {"agent": cast.agent.pk, "grant": binding.origin_id, "everything": None}[kind]
            lock(kind=kind, target=target, reason="It does odd things", operator=cast.operator)
        else:
            set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
        eventually(settled)
        assert data(ledger()[-1])["why"] == "the access under which it ran has ended"
        assert stream.next()["result"]["_meta"][ERROR] == {"error": "access_ended", "sent": True}
    assert eventually(lambda: "notifications/cancelled" in record.read_text())
    assert eventually(lambda: nothing_is_left(older))


@database
@pytest.mark.usefixtures("streams_at_once")
def test_a_server_that_may_finish_is_let(
    cast: Cast, older: Served, client: Client, record: Path, tmp_path: Path
) -> None:
    Server.objects.filter(slug="git").update(let_finish_seconds=60)
    binding = cast.limited(1)
    go = tmp_path / "go"
    with streaming(client, "tools/call", params_of("git_commit", {"do": "wait", "for": str(go)})) as stream:
        eventually(lambda: "wait" in record.read_text())
        revoke_grant(grant_id=binding.origin_id, user=cast.admin)
        assert eventually(lambda: any(call.cut for call in list(older.gateway.calls._calls)))
        go.touch()
        assert stream.next()["result"]["content"]
    eventually(settled)
    assert told("call.")[-1] == "call.completed"
    assert "notifications/cancelled" not in record.read_text()


@database
def test_an_answer_may_come_to_another_process_than_asked(
    cast: Cast, start: Callable[..., Served], record: Path
) -> None:
    first, second = (start({"git": echo(record, era="legacy")}) for _ in range(2))
    with first.client(cast) as client:
        able(client)
        with streaming(client, "tools/call", {"name": "git_log", "arguments": ASK}) as stream:
            question = stream.next()
            client.url = second.url
            assert answered(client, question["id"], result=ACCEPT) == 202
            assert json.loads(stream.next()["result"]["content"][0]["text"])["result"] == ACCEPT
    eventually(settled)
    ended = data(ledger("call.completed")[0])
    assert ended["asked"] == ["elicitation/create"]
    assert ended["answers_digest"] == digest([ACCEPT], domain="jitaccess-answers-v1")
    assert eventually(lambda: nothing_is_left(first, second))
    assert not Mail.objects.exists()


@database
def test_what_is_passed_on_between_processes_is_limited_for_each_principal(
    cast: Cast, start: Callable[..., Served], record: Path
) -> None:
    first, second = (start({"git": echo(record, era="legacy")}) for _ in range(2))
    # A minute that does not pass: on a slow machine as many may be sent again as were sent.
    first.gateway.limits.mail = Rate(per_minute=MAIL_PER_MINUTE, burst=MAIL_BURST, clock=lambda: 0.0)
    with first.client(cast) as client, first.client(cast, user=cast.olga) as other:
        able(client)
        able(other)
        name = f"{second.gateway.instance.hex}-nobody-asked"
        found = [answered(client, name, result={}) for _ in range(MAIL_BURST + 5)]
        assert found[:MAIL_BURST] == [202] * MAIL_BURST
        assert found[MAIL_BURST:] == [429] * 5
        assert answered(other, name, result={}) == 202, "another principal has a limit of its own"
        assert client.call("git_log")["content"], "only that is limited"
    eventually(lambda: not Mail.objects.exists())


@database
def test_a_call_that_waits_in_one_process_goes_on_from_another(
    cast: Cast, start: Callable[..., Served], record: Path, sent: Sent
) -> None:
    first, second = (start({"git": echo(record, era="legacy")}) for _ in range(2))
    cast.limited(1)
    with first.client(cast) as client:
        asked = ask(client, "git_commit", ASK)["result"]
        client.url = second.url
        answers = dict.fromkeys(asked["inputRequests"], ACCEPT)
        given = {"inputResponses": answers, "requestState": asked["requestState"]}
        assert ask(client, "git_commit", ASK | {"more": 1}, **given)["error"]["code"] == -32602
        answer = ask(client, "git_commit", ASK, **given)
        assert json.loads(answer["result"]["content"][0]["text"])["result"] == ACCEPT
        assert ask(client, "git_commit", ASK, **given)["error"]["code"] == -32602
        assert client.refusal("git_commit") == "used_up"
    eventually(settled)
    assert len(sent()) == 1
    assert eventually(lambda: nothing_is_left(first, second))
    assert not Mail.objects.exists()


@database
def test_a_call_whose_process_is_gone_says_so(cast: Cast, start: Callable[..., Served], record: Path) -> None:
    first, second = (start({"git": echo(record, era="legacy")}) for _ in range(2))
    with first.client(cast) as client:
        asked = ask(client, "git_log", ASK)["result"]
        GatewayInstance.objects.filter(pk=first.gateway.instance).update(lease_until=now())
        client.url = second.url
        error = ask(client, "git_log", ASK, requestState=asked["requestState"])["error"]
        assert error["code"] == -32602
        assert "gone" in error["message"]
    assert not Mail.objects.exists()
