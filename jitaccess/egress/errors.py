"""What can keep a request from going out, or its answer from coming in."""

from __future__ import annotations

from jitaccess.kernel.errors import Forbidden, Unavailable

SETTING = "JITACCESS_EGRESS_ALLOW"


class EgressRefused(Forbidden):
    """The request was not made. Codes: egress.bad_url (nothing helps but another URL), egress.refused (the address
    may be allowed by the operator: param setting names where, param entry what would have to stand there).
    """


class EgressFailed(Unavailable):
    """The request was tried. `sent` is False when it is certain that no byte of it reached the server.

    Codes: egress.unreachable (no name, no route, refused, too slow to connect), egress.tls (no trust in its
    certificate), egress.busy (a cap of ours), egress.too_late (not permitted any more when it could have gone out),
    egress.broken (connection lost, or not HTTP), egress.too_large,
    egress.encoding (a Content-Encoding that nobody asked for).
    """

    def __init__(self, code: str, detail: str, *, sent: bool = True, **params: object) -> None:
        super().__init__(code, detail, **params)
        self.sent = sent
