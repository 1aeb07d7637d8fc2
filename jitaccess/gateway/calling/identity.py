"""Telling a server who calls: a signed token for one call, that the server can check with our published keys."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from jitaccess.gateway.endpoint import PREFIX
from jitaccess.gateway.recording.facts import Admitted
from jitaccess.gateway.upstream.identity import HEADER, META
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store import jose

__all__ = ["HEADER", "KIND", "META", "assertion"]

KIND = "jitaccess-identity+jwt"
LIFETIME = timedelta(seconds=60)


def assertion(admitted: Admitted) -> str:
    """A JWT (RFC 7519) that names whose call this is, for its server alone: `act` (RFC 8693, 4.1) is the agent when it
    acts for somebody. Good for LIFETIME, and not beyond the right to the call.
    """
    intent, who = admitted.intent, admitted.intent.principal
    until = min(admitted.clock + LIFETIME, admitted.verdict.until)
    claims: JsonObject = {
        "iss": settings.PUBLIC_URL,
        "aud": f"{settings.PUBLIC_URL}{PREFIX}{intent.server_name}",
        "sub": str(who.user or who.agent),
        "preferred_username": who.user_name if who.user else who.agent_name,
        "jti": str(intent.call),
        "iat": int(admitted.clock.timestamp()),
        "exp": int(until.timestamp()),
    }
    if who.user:
        claims["act"] = {"sub": str(who.agent), "preferred_username": who.agent_name}
    return jose.sign(claims, kind=KIND)
