"""What was given to a server in confidence comes back to nobody: not in answers, not in errors, not in the record."""

from __future__ import annotations

from functools import lru_cache

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

from .config import HttpServer, ServerConfig

MASK = "[secret]"
SHORTEST = 6  # what is shorter stands in ordinary words


def inert(text: str, config: ServerConfig) -> str:
    """One line for people, without headers' or variables' values."""
    given = config.headers if isinstance(config, HttpServer) else config.env
    for part in _parts(tuple(given.values())):
        text = text.replace(part, MASK)
    return visible(text, limit=500)


def masked(value: Json, config: ServerConfig) -> Json:
    """`value` without the headers' values, in texts and names, of the same shape. Untouched when they are not in it."""
    if not isinstance(config, HttpServer) or not config.headers:
        return value
    secrets = _parts(tuple(config.headers.values()))
    if not secrets:
        return value
    encoded = strictjson.encode(value)
    if not any(strictjson.encode(secret)[1:-1] in encoded for secret in secrets):
        return value
    return _masked(value, secrets)


def _masked(value: Json, secrets: tuple[str, ...]) -> Json:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, list):
        return [_masked(item, secrets) for item in value]
    if isinstance(value, dict):
        return {str(_masked(name, secrets)): _masked(item, secrets) for name, item in value.items()}
    return value


@lru_cache(maxsize=256)
def _parts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Them and their words: servers repeat "Bearer x" as "x". Longest first."""
    found = {part for value in values for part in (value, *value.split()) if len(part) >= SHORTEST}
    return tuple(sorted(found - {"Bearer"}, key=len, reverse=True))
