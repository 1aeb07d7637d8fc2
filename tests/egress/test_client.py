from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jitaccess.egress import client as client_module
from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client, Progress
from jitaccess.egress.errors import EgressFailed, EgressRefused

pytestmark = pytest.mark.pure

LOOPBACK = Allowance.parse(["127.0.0.1"])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


class Server:
    """Answers with `handler`; remembers the requests, and one object per connection."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[web.Request] = []
        self.connections: set[Any] = set()
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.requests.append(request)
        self.connections.add(request.transport)
        return await self.handler(request)

    def url(self, host: str = "127.0.0.1", path: str = "/x") -> str:
        return f"http://{host}:{self.port}{path}"


@contextlib.asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(handler)
    runner = web.ServerRunner(web.Server(server.handle), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def opened(allowance: Allowance = LOOPBACK, **options: Any) -> AsyncIterator[Client]:
    client = Client(allowance, **options)
    try:
        yield client
    finally:
        await client.close()
        assert not client._busy


async def fetch(client: Client, url: str, *, limit: int = 1 << 20, **options: Any) -> tuple[int, bytes]:
    response = await client.send(options.pop("method", "GET"), url, headers=options.pop("headers", {}), **options)
    try:
        return response.status, await response.read(limit)
    finally:
        response.close()


async def failure(work: Awaitable[Any]) -> EgressFailed:
    with pytest.raises(EgressFailed) as caught:
        await work
    return caught.value


async def hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


def answers(*addresses: str) -> tuple[Callable[[str, int], Awaitable[list[str]]], list[tuple[str, int]]]:
    """A lookup that gives these, one answer (comma-separated) after the other, and what it was asked."""
    asked: list[tuple[str, int]] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return addresses[min(len(asked), len(addresses)) - 1].split(",")

    return lookup, asked


def test_connections_are_kept_and_used_again() -> None:
    async def work() -> None:
        async with serving(hello) as server, opened() as client:
            for _ in range(3):
                assert await fetch(client, server.url()) == (200, b"hello")
            assert len(server.connections) == 1

    run(work())


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://169.254.169.254/latest/meta-data/")

    async def work() -> None:
        async with serving(away) as server, opened() as client:
            assert (await fetch(client, server.url(), method="POST", body=b"x"))[0] == 307
            assert len(server.requests) == 1

    run(work())


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_an_address_in_the_url_is_judged_though_no_name_is_resolved(host: str) -> None:
    async def work() -> None:
        lookup, asked = answers("127.0.0.1")
        async with serving(hello) as server, opened(Allowance.parse(["localhost"]), lookup=lookup) as client:
            with pytest.raises(EgressRefused) as caught:
                await fetch(client, server.url(host))
            assert caught.value.code == "egress.refused"
            assert (asked, server.connections) == ([], set())

    run(work())


def test_a_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent() -> None:
    async def work() -> None:
        lookup, _ = answers("127.0.0.1")
        async with serving(hello) as server, opened(Allowance(), lookup=lookup) as client:
            for url in ("https://rebind.example/", "https://rebind.example:8443/"):
                with pytest.raises(EgressRefused, match=r"leads to 127\.0\.0\.1, which is a loopback address"):
                    await fetch(client, url)
            assert server.connections == set()

    run(work())


def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """DNS rebinding: the address that passed is the one that is connected to."""

    async def work() -> None:
        # The second answer would be refused; were it asked for at connection time, nothing would come back.
        lookup, asked = answers("127.0.0.1", "169.254.169.254")
        async with serving(hello) as server:
            async with opened(Allowance.parse(["mcp.test"]), lookup=lookup) as client:
                assert await fetch(client, server.url("mcp.test")) == (200, b"hello")
                assert asked == [("mcp.test", server.port)]
                assert server.requests[0].host == f"mcp.test:{server.port}"
            async with opened(Allowance.parse(["mcp.test"]), lookup=lookup) as client:
                with pytest.raises(EgressRefused, match="link-local"):
                    await fetch(client, server.url("mcp.test"))

    run(work())


def test_of_several_addresses_only_those_that_passed_are_tried() -> None:
    async def work() -> None:
        lookup, _ = answers("169.254.169.254,127.0.0.1,::1,fe80::1")
        allowance = Allowance.parse(["mcp.test"])
        async with serving(hello) as server, opened(allowance, lookup=lookup) as client:
            found = await client._resolver.resolve("mcp.test", server.port)
            assert found == ["127.0.0.1", "::1"]
            assert (await fetch(client, server.url("mcp.test")))[0] == 200

    run(work())


def test_the_systems_resolver_is_asked_in_threads_of_our_own() -> None:
    async def work() -> None:
        async with serving(hello) as server, opened(Allowance.parse(["localhost"])) as client:
            assert (await fetch(client, server.url("localhost")))[0] == 200

    run(work())


def test_nothing_of_the_environment_is_used_and_no_cookie_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def biscuit(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    async def work() -> None:
        async with serving(biscuit) as server, opened() as client:
            for _ in range(2):
                await fetch(client, server.url())
            for request in server.requests:
                assert {"Cookie", "Authorization", "Proxy-Authorization", "Referer"}.isdisjoint(request.headers)
                assert request.headers["User-Agent"] == "jitaccess"

    run(work())


def _certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mcp.test")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mcp.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_a_certificate_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    async def work() -> None:
        lookup, _ = answers("127.0.0.1")
        async with serving(hello, tls=_certificate(tmp_path)) as server:
            async with opened(Allowance.parse(["mcp.test"]), lookup=lookup) as client:
                error = await failure(fetch(client, f"https://mcp.test:{server.port}/"))
                assert (error.code, error.sent) == ("egress.tls", False)
                assert "self-signed certificate" in error.detail
                assert server.requests == []

    run(work())


def test_a_server_that_is_not_there_was_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError(f"no {host}")

    async def hang(host: str, port: int) -> list[str]:
        return [await asyncio.Event().wait() and host]

    monkeypatch.setattr(client_module, "CONNECT_SECONDS", 0.2)

    async def work() -> None:
        async with serving(hello) as server:
            port = server.port
        async with opened() as client:
            error = await failure(fetch(client, f"http://127.0.0.1:{port}/"))
            assert (error.code, error.sent) == ("egress.unreachable", False)
        for lookup, problem in ((nowhere, "cannot be resolved"), (hang, "no connection within 0.2 seconds")):
            async with opened(lookup=lookup) as client:
                error = await failure(fetch(client, "https://mcp.test/"))
                assert (error.code, error.sent) == ("egress.unreachable", False)
                assert problem in error.detail

    run(work())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(1000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=["nothing", "another protocol", "cut", "a long header", "many headers", "a bad chunk", "two lengths"],
)  # fmt: skip
def test_a_server_that_speaks_no_http_was_sent_something(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server, opened() as client:
            port = server.sockets[0].getsockname()[1]
            error = await failure(fetch(client, f"http://127.0.0.1:{port}/", method="POST", body=b"x"))
            assert (error.code, error.sent) == ("egress.broken", True)

    run(work())


def _packed(encoding: str, body: bytes) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    return handler


def test_a_body_is_unpacked_within_its_cap_and_never_beyond() -> None:
    text = b"hello " * 50_000
    bomb = gzip.compress(bytes(64 << 20), 9)
    cut = gzip.compress(b"hello")[:-9]

    async def work() -> None:
        async with opened() as client:
            for encoding, body in (("gzip", gzip.compress(text)), ("deflate", zlib.compress(text)), ("identity", text)):
                async with serving(_packed(encoding, body)) as server:
                    assert (await fetch(client, server.url())) == (200, text)
                    assert server.requests[0].headers["Accept-Encoding"] == "identity"
                    error = await failure(fetch(client, server.url(), limit=len(text) - 1))
                    assert error.code == "egress.too_large"
            for encoding, body, code in (
                ("gzip", bomb, "too_large"), ("gzip", b"not packed", "encoding"), ("br", b"x", "encoding"),
                ("gzip, gzip", b"x", "encoding"),
            ):  # fmt: skip
                async with serving(_packed(encoding, body)) as server:
                    assert (await failure(fetch(client, server.url()))).code == f"egress.{code}"
            async with serving(_packed("gzip", cut)) as server:
                assert text != (await fetch(client, server.url()))[1]

    run(work())


def test_a_request_that_hangs_says_whether_it_was_sent_and_takes_no_place_afterwards() -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        return web.Response(text=str(await asyncio.Event().wait()))

    async def work() -> None:
        async with serving(never) as server, opened() as client:
            progress = Progress()
            task = asyncio.create_task(fetch(client, server.url(), method="POST", body=b"x", progress=progress))
            while not server.requests:
                await asyncio.sleep(0.001)
            assert progress.sent
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())


def test_one_origin_takes_no_more_than_its_places_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PER_ORIGIN", 2)
    release = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async def work() -> None:
        async with serving(slow) as busy, serving(hello) as idle, opened() as client:
            tasks = [asyncio.create_task(fetch(client, busy.url())) for _ in range(2)]
            while len(busy.requests) < 2:
                await asyncio.sleep(0.001)
            error = await failure(fetch(client, busy.url()))
            assert (error.code, error.sent) == ("egress.busy", False)
            assert (await fetch(client, idle.url()))[0] == 200
            release.set()
            assert [status for status, _ in await asyncio.gather(*tasks)] == [200, 200]
            assert (await fetch(client, busy.url()))[0] == 200

    run(work())


def test_a_header_cannot_be_smuggled_in_with_a_value() -> None:
    async def work() -> None:
        async with serving(hello) as server, opened() as client:
            with pytest.raises(ValueError, match=r"(?i)newline|header|line"):
                await fetch(client, server.url(), headers={"X-Key": "a\r\nX-Other: b"})
            assert server.requests == []

    run(work())
