"""From the operator's file to the catalogue: register servers and take over the tools they offer."""

from __future__ import annotations

import asyncio
import logging

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server
from jitaccess.catalog.services import import_tools, register_server
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.stdio import StdioConnection
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.strictjson import JsonObject

log = logging.getLogger(__name__)


def refresh_server(config: StdioServer, *, operator: Actor) -> dict[str, int]:
    """Start the server, take over its tools, stop it; returns counts. Raises UpstreamError when it cannot be asked."""
    definitions = asyncio.run(_tools_of(config))
    server = register_server(slug=config.slug, operator=operator)
    return import_tools(server=server, definitions=definitions, operator=operator)


def refresh_servers(configs: dict[str, StdioServer], *, operator: Actor) -> dict[str, str]:
    """Every server of the file; one that is down harms only itself. Returns what happened, by slug."""
    report = {}
    for slug, config in sorted(configs.items()):
        try:
            counts = refresh_server(config, operator=operator)
            report[slug] = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "unchanged"
        except JitAccessError as error:
            report[slug] = f"not reached: {error.detail}"
            log.warning("server %s: %s", slug, error.detail)
    return report


def unknown_servers(configs: dict[str, StdioServer]) -> dict[str, StdioServer]:
    """Those of the file that the catalogue does not know yet."""
    known = set(Server.objects.values_list("slug", flat=True))
    return {slug: config for slug, config in configs.items() if slug not in known}


async def _tools_of(config: StdioServer) -> list[JsonObject]:
    connection = await StdioConnection.open(config)
    try:
        return await connection.list_tools()
    finally:
        await connection.close()
