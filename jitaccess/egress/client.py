"""The HTTP client of the whole product: connects to checked addresses only, follows nothing, believes no size."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .addresses import Allowance, Target, check_address, check_url
from .errors import EgressFailed, EgressRefused

CONNECT_SECONDS = 10.0  # name, route and TLS together
# Shorter than the 5 s of common servers: a request must not go out on a connection that is just being closed.
KEEP_ALIVE_SECONDS = 4.0
MAX_BODY = 8 << 20  # bytes, as sent and as unpacked
MAX_HEADER = 8190  # bytes of one line; aiohttp takes at most 128 of them
MAX_PER_ORIGIN = 320  # requests in progress, streams included
_DNS_THREADS = 8
_PIECE = 64 << 10

Lookup = Callable[[str, int], Awaitable[list[str]]]


@dataclass(slots=True)
class Progress:
    """Whether anything of a request may have reached the server: to be asked after a timeout or a cancellation.

    `permit` is asked at the last moment, when name, route and TLS are there, and whether a byte may still go out.
    """

    sent: bool = False
    permit: Callable[[], bool] | None = None


class Response:
    """An answer whose body was not read yet. `status` as it came: a redirect is an answer, not an order."""

    def __init__(self, response: aiohttp.ClientResponse, done: Callable[[], None]) -> None:
        self._response, self._done = response, done
        self._closed = False
        self.status = response.status

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self._response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def chunks(self, limit: int | None = MAX_BODY) -> AsyncGenerator[bytes, None]:
        """The body in pieces, unpacked. Raises EgressFailed: broken, encoding, or too_large beyond `limit` bytes."""
        unpack = _unpacker(self._response.headers.get("Content-Encoding", ""))
        size = 0
        try:
            async for received in self._response.content.iter_any():
                for chunk in unpack(received):
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise EgressFailed("egress.too_large", f"The answer is larger than {limit} bytes.")
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise EgressFailed("egress.broken", f"The answer broke off ({type(error).__name__}).") from error
        except zlib.error as error:
            raise EgressFailed("egress.encoding", "The answer cannot be unpacked.") from error

    async def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises EgressFailed as `chunks`."""
        return b"".join([chunk async for chunk in self.chunks(limit)])

    @property
    def at_end(self) -> bool:
        """Whether the body was read to its end."""
        return self._response.content.at_eof()

    async def skip(self, seconds: float) -> None:
        """Read on to the end, for at most `seconds` and a little more body, so that the connection can be kept."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(seconds):
                size = 0
                async for received in self._response.content.iter_any():
                    size += len(received)
                    if size > _PIECE:
                        break

    def close(self) -> None:
        """Hang up, unless the body was read to its end: then the connection is kept for the next. Idempotent."""
        if not self._closed:
            self._closed = True
            self._response.close()
            self._done()


class Client:
    """Makes requests within `allowance`. Belongs to one event loop; close it there.

    Nothing of the environment is used: no proxies, no ~/.netrc, no cookies. `lookup` resolves a name and a port to
    addresses; the system's resolver unless given.
    """

    def __init__(self, allowance: Allowance, *, lookup: Lookup | None = None) -> None:
        self.allowance = allowance
        self._resolver = _Resolver(allowance, lookup)
        self._session: aiohttp.ClientSession | None = None
        self._busy: Counter[str] = Counter()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        progress: Progress | None = None,
    ) -> Response:
        """Return the answer once its headers are here. The caller bounds the time, and closes the answer.

        Raises EgressRefused before anything is sent, or EgressFailed, which says whether something was.
        """
        progress = progress or Progress()
        target = check_url(url, self.allowance)
        if self._busy[target.origin] >= MAX_PER_ORIGIN:
            detail = f"{MAX_PER_ORIGIN} requests to {target.origin} are in progress."
            raise EgressFailed("egress.busy", detail, sent=False)
        self._busy[target.origin] += 1
        try:
            response = await self._opened().request(
                method,
                URL(target.url, encoded=True),
                headers={"User-Agent": "jitaccess", "Accept-Encoding": "identity", **headers},
                skip_auto_headers=("Accept", "Content-Type"),
                data=body,
                allow_redirects=False,
                trace_request_ctx=progress,
            )
        except BaseException as error:
            self._left(target.origin)
            if isinstance(error, aiohttp.ClientError | OSError):
                raise _failure(error, target, progress) from error
            raise
        return Response(response, lambda: self._left(target.origin))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    def _left(self, origin: str) -> None:
        self._busy[origin] -= 1
        if not self._busy[origin]:
            del self._busy[origin]

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                # No limit here: one that is slow must not make others wait. MAX_PER_ORIGIN refuses instead.
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver, limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=10
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
                trace_configs=[trace],
            )
        return self._session


class _Resolver(AbstractResolver):
    """Names to addresses that passed the check. What is checked is what is connected to: nobody asks a second time,
    so a name that changes its answer in between (DNS rebinding) gains nothing. Literals never come here.
    """

    def __init__(self, allowance: Allowance, lookup: Lookup | None) -> None:
        self._allowance = allowance
        self._lookup = lookup or self._ask_system
        self._threads: ThreadPoolExecutor | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        target = Target("", "", host, port, None)
        passed: list[ResolveResult] = []
        refusal: EgressRefused | None = None
        for text in await self._lookup(host, port):
            address = ipaddress.ip_address(text)
            try:
                check_address(address, target, self._allowance)
            except EgressRefused as error:
                refusal = error
                continue
            version = socket.AF_INET6 if address.version == 6 else socket.AF_INET
            if family not in (socket.AF_UNSPEC, version):
                continue
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            passed.append(ResolveResult(hostname=host, host=text, port=port, family=version, proto=0, flags=flags))
        if passed:
            return passed
        raise refusal or OSError("the name has no address")

    async def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_system(self, host: str, port: int) -> list[str]:
        # Threads of our own: names that hang must not hold up what the loop's threads are for.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="egress-dns")

        def ask() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # With a scope id the address means another machine on each interface; such are link-local anyway.
            return [str(sockaddr[0]).partition("%")[0] for _, _, _, _, sockaddr in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """Called just before the first byte goes out."""
    progress: Progress = context.trace_request_ctx
    if progress.permit is not None and not progress.permit():
        raise EgressFailed("egress.too_late", "It took too long until the request could go out.", sent=False)
    progress.sent = True


def _failure(error: BaseException, target: Target, progress: Progress) -> EgressFailed:
    host = target.origin
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return EgressFailed("egress.tls", f"No trusted TLS connection to {host}: {_reason(error)}.", sent=False)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return EgressFailed("egress.unreachable", f"{host} cannot be reached: {_reason(error)}.", sent=False)
    return EgressFailed(
        "egress.broken", f"The connection to {host} broke ({type(error).__name__}).", sent=progress.sent
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} seconds"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return str(getattr(cause, "verify_message", "") or type(cause).__name__)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    return type(error).__name__


def _unpacker(named: str) -> Callable[[bytes], Iterator[bytes]]:
    named = named.strip().lower()
    if named in {"", "identity"}:
        return lambda received: iter((received,))
    if named not in {"gzip", "x-gzip", "deflate"}:
        raise EgressFailed("egress.encoding", "The answer has a Content-Encoding that was not asked for.")
    # Identity is what we ask for; some intermediaries pack all the same.
    packed = zlib.decompressobj(wbits=47)

    def unpack(received: bytes) -> Iterator[bytes]:
        piece = b""
        while not packed.eof and (received or len(piece) == _PIECE):
            # In small pieces, so that a bomb is noticed before it is unpacked.
            piece = packed.decompress(received, _PIECE)
            received = packed.unconsumed_tail
            if piece:
                yield piece

    return unpack
