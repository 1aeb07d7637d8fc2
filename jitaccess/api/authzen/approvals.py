"""Approval references (Access Request and Approval Profile, "Completion Semantics"): what was approved, and whether it
is about the question at hand. A reference is no right by itself: it has to name a grant of this very principal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings

from jitaccess.api.authzen.vocabulary import Target
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.arguments import arguments_digest, parse_constraint
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.services import uses_left
from jitaccess.store import jose
from requests_app import selectors
from requests_app.selectors import AccessRequest, Grant

KIND = "authzen-approval+jws"
PREFIX = "apr_"


@dataclass(frozen=True, slots=True)
class Approval:
    """A presented reference. `grant` None: it cannot be verified, or is not theirs. `stale`: its proof is too old."""

    id: str
    grant: Grant | None = None
    stale: bool = False

    def of(self, grant: UUID | None) -> bool:
        """Whether it is good for what this grant allows."""
        return self.grant is not None and not self.stale and self.grant.pk == grant

    def why_denied(self, at: datetime, target: Target, pin: str) -> str:
        """The profile's reason for a denial in spite of this approval; `pin` is of the tool's definition as it is."""
        grant = self.grant
        if grant is None:
            return "approval_unverifiable"
        if self.stale or grant.ended_at is not None or grant.expires_at <= at:
            return "approval_expired"
        if not _covers(grant.request, target, pin):
            return "out_of_scope"
        if grant.starts_at > at:
            return "grant_pending"
        return "approval_expired" if uses_left(grant.pk) == 0 else "policy_denied"


def name_of(grant: Grant) -> str:
    """Opaque; whoever guesses one is still not who it belongs to."""
    return f"{PREFIX}{grant.pk.hex}"


def reference(request: AccessRequest, grant: Grant, at: datetime) -> JsonObject:
    """The `approval` object of an approved request."""
    until = grant.ended_at or grant.expires_at
    approved_at = request.closed_at or grant.starts_at
    claims: JsonObject = {
        "iss": settings.PUBLIC_URL,
        "aud": settings.PUBLIC_URL,
        "iat": int(at.timestamp()),
        "exp": int(grant.expires_at.timestamp()),
        "approval_id": name_of(grant),
        "request_digest": request.digest,
        "binding_context_members": [],
    }
    return {
        "id": name_of(grant),
        "approved_at": approved_at.isoformat(),
        "approved_until": until.isoformat(),
        "state": jose.sign(claims, kind=KIND),
    }


def presented(who: Who, value: Json, at: datetime) -> Approval:
    """The approval of `context.approval`, looked up and, where it carries its proof, verified. Never raises."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return Approval("")
    name = str(value["id"])
    try:
        pk = UUID(name.removeprefix(PREFIX))
    except ValueError:
        return Approval(name)
    owner = Principal(agent=who.agent, user=who.user)
    grant = selectors.grants_of(owner).filter(pk=pk).first()
    if grant is None or name_of(grant) != name:
        return Approval(name)
    if "state" not in value:
        return Approval(name, grant)
    until = _proven(value["state"], grant)
    return Approval(name, grant, stale=until <= at.timestamp()) if until is not None else Approval(name)


def _proven(state: Json, grant: Grant) -> int | None:
    """Until when `approval.state` is good; None unless it was signed here, for here, for this approval."""
    if not isinstance(state, str):
        return None
    try:
        claims = jose.verify(state, kind=KIND, issuer=settings.PUBLIC_URL, audience=settings.PUBLIC_URL)
    except Invalid:
        return None
    until = claims.get("exp")
    bound = (claims.get("approval_id"), claims.get("request_digest")) == (name_of(grant), grant.request.digest)
    return until if bound and isinstance(until, int) else None


def _covers(request: AccessRequest, target: Target, pin: str) -> bool:
    """Whether what was approved is this tool as it is now, with these arguments where they were limited."""
    for item in request.parsed_items:
        named = any((tool["name"], tool["pin"]) == (target.name, pin) for tool in item.get("tools", ()))
        if item.get("server") != target.server or target.kind != "tool" or not named:
            continue
        limit = parse_constraint(item.get("arguments", {"mode": "any"}))
        if limit.difference(target.arguments, arguments_digest(target.arguments)) is None:
            return True
    return False
