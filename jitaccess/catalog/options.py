"""What an operator may set for one server: how long its calls may take, how large its answers may be, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Final

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

HOUR = 3600
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the gateway treats one server; a plain value, equal when it says the same.

    `call_seconds`: a call is given up after so long. `let_finish_seconds`: a call that runs when its right ends may run
    on so long; 0: it is cancelled. `max_result_bytes`: a larger result is refused. `identity_header`: the server is
    told who calls, in a signed token. `repeat_limit`: so many equal calls of one caller in a minute are let through;
    0: all, and they are flagged. `accept_definitions`: what it offers is pinned as it comes, without a review.
    """

    call_seconds: int = 60
    let_finish_seconds: int = 0
    max_result_bytes: int = 4 * MIB
    identity_header: bool = False
    repeat_limit: int = 0
    accept_definitions: bool = False

    def as_json(self) -> dict[str, Json]:
        """By name."""
        return dict(asdict(self))


DEFAULTS: Final = ServerOptions()
NAMES: Final = tuple(field.name for field in fields(ServerOptions))
# The least and the most of each number. More than 8 MiB no transport takes in one message.
BOUNDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "call_seconds": (1, HOUR),
        "let_finish_seconds": (0, HOUR),
        "max_result_bytes": (1024, 8 * MIB),
        "repeat_limit": (0, 10_000),
    }
)
MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "call_seconds": "A call is given up after so many seconds.",
        "let_finish_seconds": "A call that runs when the right to it ends may run on so many seconds; "
        "0: it is cancelled.",
        "max_result_bytes": "A larger result is refused.",
        "identity_header": "Tell the server who calls, in a token signed by this gateway.",
        "repeat_limit": "The same call of one caller is refused beyond so many in a minute; 0: it is only flagged.",
        "accept_definitions": "Trusted: new and changed tools are pinned as they come, without a review.",
    }
)


def checked(changes: Mapping[str, object]) -> dict[str, int | bool]:
    """The options in `changes`, as they may be stored. Raises Invalid("server.options") naming the first wrong one."""
    good: dict[str, int | bool] = {}
    for name, value in changes.items():
        if name not in NAMES:
            shown = visible(name, limit=60)
            raise Invalid("server.options", f'There is no option "{shown}"; there are {", ".join(NAMES)}.')
        if name not in BOUNDS:
            if not isinstance(value, bool):
                raise Invalid("server.options", f"{name} must be true or false.")
            good[name] = value
            continue
        least, most = BOUNDS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Invalid("server.options", f"{name} must be a whole number from {least} to {most}.")
        good[name] = value
    return good
