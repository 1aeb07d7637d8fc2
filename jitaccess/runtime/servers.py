"""From where servers are described to the catalogue: ask them for their tools, and take those over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TypeVar

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server
from jitaccess.gateway.seeing.catalogue import ask, note_failure, take_over
from jitaccess.gateway.upstream.config import ServerConfig
from jitaccess.kernel.errors import JitAccessError

log = logging.getLogger(__name__)
Config = TypeVar("Config", bound=ServerConfig)


def refresh_server(config: ServerConfig, *, operator: Actor) -> dict[str, int]:
    """Ask the server, take over its tools; returns counts. Raises Unavailable when it cannot be asked."""
    return take_over(config, asyncio.run(ask(config)), operator=operator)


def refresh_servers(configs: Mapping[str, ServerConfig], *, operator: Actor) -> dict[str, str]:
    """Every one of them; one that is down harms only itself. Returns what happened, by slug."""
    report = {}
    for slug, config in sorted(configs.items()):
        try:
            counts = refresh_server(config, operator=operator)
            report[slug] = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "unchanged"
        except JitAccessError as error:
            report[slug] = f"not reached: {error.detail}"
            log.warning("server %s: %s", slug, error.detail)
            note_failure(slug, error.detail)
    return report


def unknown_servers(configs: Mapping[str, Config]) -> dict[str, Config]:
    """Those that the catalogue does not know yet."""
    known = set(Server.objects.values_list("slug", flat=True))
    return {slug: config for slug, config in configs.items() if slug not in known}
