"""Names to addresses that passed the check."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from .addresses import Allowance, Target, check_address
from .errors import EgressRefused

HOLDS_SECONDS = 10.0  # so long an answer is used again
_THREADS = 8
_MAX_KNOWN = 1024

Lookup = Callable[[str, int], Awaitable[list[str]]]


class NoAddress(OSError):
    """The name has no address."""


class Resolver:
    """What is checked is what is connected to: nobody asks a second time, so a name that changes its answer in between
    (DNS rebinding) gains nothing. `lookup` resolves a name and a port; the system's resolver unless given.
    """

    def __init__(self, allowance: Allowance, lookup: Lookup | None) -> None:
        self._allowance = allowance
        self._lookup = lookup or self._ask_system
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[str]]] = {}
        self._threads: ThreadPoolExecutor | None = None

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses that may be connected to, best first; who asks at the same time shares the answer.

        Raises EgressRefused when none of them may, NoAddress when there is none.
        """
        key = host, port
        ends, addresses = self._known.get(key, (0.0, []))
        if asyncio.get_running_loop().time() < ends:
            return addresses
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(host, port))
            task.add_done_callback(lambda task: self._asked(key, task))
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _asked(self, key: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = asyncio.get_running_loop().time() + HOLDS_SECONDS, task.result()

    async def _ask(self, host: str, port: int) -> list[str]:
        target = Target("", "", host, port, None)
        passed: list[str] = []
        refusal: EgressRefused | None = None
        try:
            found = await self._lookup(host, port)
        except OSError as error:
            raise NoAddress from error
        for text in dict.fromkeys(found):
            try:
                check_address(ipaddress.ip_address(text), target, self._allowance)
            except EgressRefused as error:
                refusal = error
            else:
                passed.append(text)
        if passed:
            return passed
        raise refusal or NoAddress

    async def _ask_system(self, host: str, port: int) -> list[str]:
        # Threads of our own: names that hang must not hold up what the loop's threads are for.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="egress-dns")

        def ask() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # With a scope id the address means another machine on each interface; such are link-local anyway.
            return [str(sockaddr[0]).partition("%")[0] for _, _, _, _, sockaddr in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
