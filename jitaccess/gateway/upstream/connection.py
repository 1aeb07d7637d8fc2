"""A connection to an MCP server, whatever carries it."""

from __future__ import annotations

from typing import Protocol

from django.conf import settings

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.kernel.strictjson import JsonObject

from .asked import NOBODY, Told
from .config import ServerConfig, StdioServer
from .http import HttpConnection
from .messages import OnNotification, Permit
from .stdio import StdioConnection


class Connection(Protocol):
    """One server, as one principal (or every one) uses it; see StdioConnection for what each member promises."""

    alive: bool
    held: int
    lasting: int
    last_used: float
    era: str
    server_info: JsonObject
    capabilities: JsonObject
    instructions: str | None
    level: str | None

    @property
    def server(self) -> ServerConfig: ...

    @property
    def pending(self) -> int: ...

    async def request(
        self,
        method: str,
        params: JsonObject,
        *,
        timeout: float,  # noqa: ASYNC109 - a timeout is told to the server
        told: Told = NOBODY,
        permit: Permit | None = None,
    ) -> JsonObject: ...

    async def list_tools(self, *, timeout: float = 30) -> list[JsonObject]: ...  # noqa: ASYNC109 - as above

    async def make_ready(self) -> None: ...

    async def close(self) -> None: ...


def egress_client() -> Client:
    """A client within what the operator allows. Raises Invalid for a setting that cannot be read."""
    return Client(Allowance.parse(settings.EGRESS_ALLOW))


async def open_connection(
    config: ServerConfig,
    *,
    on_notification: OnNotification | None = None,
    client: Client | None = None,
    capabilities: JsonObject | None = None,
) -> Connection:
    """Start or greet a server. Over HTTP it shares the connections of `client`, or has a client of its own. A server of
    the older era is told that its client has `capabilities`.

    Raises UpstreamError "upstream.unavailable" with sent=False; nothing is left behind. When the operator does not
    allow the address, it has the params of EgressRefused.
    """
    if isinstance(config, StdioServer):
        return await StdioConnection.open(config, on_notification=on_notification, capabilities=capabilities)
    if client is not None:
        return await HttpConnection.open(
            config, client=client, on_notification=on_notification, capabilities=capabilities
        )
    client = egress_client()
    try:
        connection = await HttpConnection.open(
            config, client=client, on_notification=on_notification, capabilities=capabilities
        )
    except BaseException:
        await client.close()
        raise
    connection.own_client = client
    return connection
