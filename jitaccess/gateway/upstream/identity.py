"""How the token that names the caller travels: as a header over HTTP, in `_meta` to a program."""

from __future__ import annotations

from jitaccess.kernel.strictjson import JsonObject

META = "io.jitaccess/identity"
HEADER = "X-JitAccess-Identity"


def as_header(params: JsonObject) -> tuple[JsonObject, dict[str, str]]:
    """`params` without the token, and the header with it; what has none as it is."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or META not in meta:
        return params, {}
    rest = {name: value for name, value in meta.items() if name != META}
    return {**params, "_meta": rest}, {HEADER: str(meta[META])}
