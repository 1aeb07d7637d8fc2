"""What can go wrong between the gateway and an upstream server."""

from __future__ import annotations

from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.strictjson import Json

TOO_LATE = "upstream.too_late"


class UpstreamError(Unavailable):
    """The upstream could not be asked, or gave no usable answer.

    `sent` is the question an auditor asks: False means that nothing of this request reached the server; True
    means that it was handed over and its effect is unknown, so it must not be repeated blindly.

    Codes: upstream.unavailable (not started, no handshake, not alive, HTTP 401, 403 or 5xx), upstream.busy (a cap is
    reached, of ours or the server's), upstream.died (ended in mid-call), upstream.timeout, upstream.invalid_response
    (answered, but not with a JSON-RPC result of the right shape and size), upstream.too_late (`permit` said no at the
    last moment), upstream.cancelled (closed by us in mid-call).
    """

    def __init__(self, code: str, detail: str, *, sent: bool = False, **params: object) -> None:
        super().__init__(code, detail, **params)
        self.sent = sent


class RemoteError(Exception):
    """The server's own JSON-RPC error object. `message` and `data` are written by the server: hostile text."""

    def __init__(self, rpc_code: int, message: str, data: Json = None) -> None:
        super().__init__(rpc_code, message, data)
        self.rpc_code = rpc_code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"JSON-RPC error {self.rpc_code}: {self.message}"
