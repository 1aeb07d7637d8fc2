"""One request on its way, as the methods see it, and a result as its client can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from jitaccess.gateway import wire
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.talking.caller import Caller
from jitaccess.gateway.wire import Message
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.rules import Snapshot

if TYPE_CHECKING:
    from jitaccess.gateway.calling.short import ShortCall


class Context(msgspec.Struct, frozen=True):
    """One request on its way: who asks what where; policy and clock as they were read when it came. `begun`: a call of
    a tool, which is under way already.
    """

    gateway: Gateway
    principal: Principal
    endpoint: Endpoint
    message: Message
    snapshot: Snapshot
    clock: Clock
    caller: Caller | None = None
    begun: ShortCall | None = None

    @property
    def who(self) -> Who:
        assert self.principal.agent
        return Who(self.principal.agent, self.principal.user)


def complete(context: Context, value: JsonObject) -> JsonObject:
    """A result in the words of the client's era, whatever the era of the server it came from."""
    if not context.message.modern:
        return {key: member for key, member in value.items() if key not in {"resultType", "ttlMs", "cacheScope"}}
    return wire.stamped(value)
