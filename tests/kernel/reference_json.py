"""What strictjson says without its short cuts: the standard library's parser with our checks on every part."""

from __future__ import annotations

from jitaccess.kernel.strictjson import JsonObject, _decode_any, encode

__all__ = ["decode", "encode"]


def decode(body: bytes, *, max_depth: int = 64) -> JsonObject:
    return _decode_any(body, max_depth)
