"""Find out which protocol era a server speaks, and greet it (2026-07-28: basic/transports/stdio, basic/versioning).

Modern servers need no handshake, but over stdio a client of both eras asks `server/discover` before anything else.
A DiscoverResult or a recognised modern error means modern; any other error, or silence, means legacy: `initialize`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

from .config import Era, ServerConfig
from .errors import RemoteError, UpstreamError

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
PROBE_SECONDS = 5.0

META = "io.modelcontextprotocol/"
UNSUPPORTED_VERSION = -32022
_MODERN_ERRORS = range(-32022, -32019)  # HeaderMismatch, MissingRequiredClientCapability, UnsupportedProtocolVersion

try:
    CLIENT_INFO: JsonObject = {"name": "jitaccess", "version": version("jitaccess")}
except PackageNotFoundError:  # run from a checkout
    CLIENT_INFO = {"name": "jitaccess", "version": "0"}

Post = Callable[[str, JsonObject], "asyncio.Future[JsonObject]"]
Notify = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server says about itself; all of it is the server's own claim."""

    era: str
    server_info: JsonObject
    capabilities: JsonObject
    instructions: str | None


async def greet(post: Post, notify: Notify, era: Era, announced: JsonObject | None = None) -> Greeting:
    """Settle the era on a fresh connection. Never times out by itself, apart from the probe. `announced` are the client
    capabilities told in a handshake of the older era; the newer one tells them with each request.

    Raises RemoteError (the handshake was refused) or UpstreamError (no version in common, nonsense, or it died).
    """
    if era == "legacy":
        return await _initialize(post, notify, announced or {})
    if era == "older":
        try:
            return await _initialize(post, notify, announced or {})
        except RemoteError:
            era = "modern"  # if anything, for it does not know the handshake
    probe = _discover(post)
    try:
        if era == "modern":
            await asyncio.wait({probe})
        else:
            await asyncio.wait({probe}, timeout=PROBE_SECONDS)
        greeting = _verdict(probe, era)
        if greeting is not None:
            return greeting
        try:
            return await _initialize(post, notify, announced or {})
        except RemoteError as refusal:
            # A slow modern server reads both requests at once: it answers the probe and refuses `initialize`.
            greeting = _verdict(probe, era)
            if greeting is None and refusal.rpc_code == UNSUPPORTED_VERSION and MODERN in _supported(refusal.data):
                greeting = _greeting(await _discover(post))
            if greeting is None:
                raise
            return greeting
    finally:
        if not probe.cancel() and not probe.cancelled():
            probe.exception()  # looked at, so that asyncio does not report it


def _discover(post: Post) -> asyncio.Future[JsonObject]:
    return post("server/discover", {"_meta": modern_meta({})})


def modern_meta(meta: JsonObject) -> JsonObject:
    """Return `meta` with the per-request fields of 2026-07-28 (basic/index, _meta); capabilities default to none."""
    capabilities = meta.get(META + "clientCapabilities")
    return {
        **meta,
        META + "protocolVersion": MODERN,
        META + "clientInfo": CLIENT_INFO,
        META + "clientCapabilities": capabilities if isinstance(capabilities, dict) else {},
    }


def _verdict(probe: asyncio.Future[JsonObject], era: Era) -> Greeting | None:
    """Return the greeting of a modern server, None for a legacy (or, so far, silent) one; raise when neither fits."""
    if not probe.done():
        return None
    error = probe.exception()
    if error is None:
        greeting = _greeting(probe.result())
        if greeting is None and era == "modern":
            raise _incompatible(probe.result().get("supportedVersions"))
        return greeting
    if not isinstance(error, RemoteError) or era == "modern":
        raise error
    if error.rpc_code == UNSUPPORTED_VERSION:
        supported = _supported(error.data)
        if supported and not set(supported) & set(LEGACY):
            raise _incompatible(list(supported))
    elif error.rpc_code in _MODERN_ERRORS:
        refusal = visible(str(error), limit=200)
        raise UpstreamError("upstream.unavailable", f"The server refuses to be discovered: {refusal}.")
    return None


def _supported(data: Json) -> tuple[str, ...]:
    versions = data.get("supported") if isinstance(data, dict) else None
    return tuple(item for item in versions if isinstance(item, str)) if isinstance(versions, list) else ()


def _greeting(result: JsonObject) -> Greeting | None:
    versions, capabilities = result.get("supportedVersions"), result.get("capabilities")
    if not isinstance(versions, list) or MODERN not in versions or not isinstance(capabilities, dict):
        return None  # not a DiscoverResult, or one that offers handshake versions only
    meta = _as(dict, result.get("_meta")) or {}
    return Greeting(
        era=MODERN,
        server_info=_as(dict, meta.get(META + "serverInfo")) or {},
        capabilities=capabilities,
        instructions=_as(str, result.get("instructions")),
    )


async def _initialize(post: Post, notify: Notify, announced: JsonObject) -> Greeting:
    params: JsonObject = {"protocolVersion": LEGACY[0], "capabilities": announced, "clientInfo": CLIENT_INFO}
    result = await post("initialize", params)
    spoken, capabilities = result.get("protocolVersion"), result.get("capabilities")
    if spoken not in LEGACY or not isinstance(spoken, str):
        raise _incompatible([spoken])
    if not isinstance(capabilities, dict):
        raise UpstreamError("upstream.invalid_response", 'The result of "initialize" has no capabilities.')
    notify("notifications/initialized")
    return Greeting(
        era=spoken,
        server_info=_as(dict, result.get("serverInfo")) or {},
        capabilities=capabilities,
        instructions=_as(str, result.get("instructions")),
    )


def _incompatible(offered: Json) -> UpstreamError:
    shown = visible(repr(offered), limit=120)
    return UpstreamError("upstream.unavailable", f"The server offers protocol versions that are not spoken: {shown}.")


def _as(kind: type[_T], value: object) -> _T | None:
    return value if isinstance(value, kind) else None


def unavailable(server: ServerConfig, error: TimeoutError | RemoteError | UpstreamError) -> UpstreamError:
    """Why a handshake came to nothing."""
    slug, params = server.slug, {}
    if isinstance(error, TimeoutError):
        detail = f'The server "{slug}" did not finish the handshake within {server.start_timeout:g} seconds.'
    elif isinstance(error, RemoteError):
        detail = f'The server "{slug}" refused the handshake: {visible(str(error), limit=200).rstrip(".")}.'
    else:
        detail, params = error.detail, error.params
    unavailable = UpstreamError("upstream.unavailable", detail, server=slug)
    unavailable.params |= params
    return unavailable
