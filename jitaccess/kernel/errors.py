"""The one exception family: a guard raises one of these, an interface maps the class to a status."""

from __future__ import annotations

from typing import ClassVar


class JitAccessError(Exception):
    """A refusal with a stable dotted code, a sentence for people, and machine-readable params.

    `code` is part of the public interface (for example "request.already_decided"); `detail` is not and may
    be reworded. `params` hold JSON-friendly values that an interface may show: never a secret. `http_status` is what
    pages and the REST API answer with.
    """

    http_status: ClassVar[int] = 500

    def __init__(self, code: str, detail: str, **params: object) -> None:
        # Only the positional pair goes into args: that is what makes the exception survive pickling.
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.params = params

    def __str__(self) -> str:
        return self.detail


class Invalid(JitAccessError):
    """The input is malformed or out of bounds."""

    http_status = 400


class Forbidden(JitAccessError):
    """The caller is known and may not do this."""

    http_status = 403


class NotFound(JitAccessError):
    """It does not exist, or the caller may not know that it does."""

    http_status = 404


class Conflict(JitAccessError):
    """The input is fine, the present state does not allow it."""

    http_status = 409


class Unavailable(JitAccessError):
    """Something needed is down, busy or locked: trying again later may work."""

    http_status = 503
