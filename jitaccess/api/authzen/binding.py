"""Requestable denials and the tokens that bind a request to one (Access Request and Approval Profile, "Requestable
Denial Context" and "Binding Token Integrity").
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings

from jitaccess.api.authzen.asking import Asking
from jitaccess.api.authzen.entities import Action, Entity, Question, same
from jitaccess.api.authzen.problems import ExpiredDenial, InvalidBinding
from jitaccess.api.authzen.vocabulary import Target
from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Code, Verdict
from jitaccess.store import jose

KIND = "authzen-binding+jws"
LIFETIME = timedelta(minutes=10)
# Beyond this a token holds the digest of the question instead of the question.
MAX_INLINE = 4000


def url(path: str) -> str:
    return f"{settings.PUBLIC_URL}/access/v1/{path}"


@dataclass(frozen=True, slots=True)
class AskedFor:
    """What a request for a denied question would be for. `rule` names by what it may be asked for, and who decides."""

    role: str
    rule: tuple[str, ...]

    @property
    def mark(self) -> str:
        """Another rule since then is another denial. Tells nothing of the rule."""
        return digest(list(self.rule), domain="jitaccess-authzen-policy-v1").removeprefix("sha256:")[:32]


def asked_for(verdict: Verdict, target: Target) -> AskedFor | None:
    """The tool, or the one call of it where arguments were given, else a role that would do; None: nothing."""
    if verdict.allowed or verdict.code in {Code.QUARANTINED, Code.LOCKED_DOWN}:
        return None
    rule = verdict.requestable
    if rule is not None and (target.exact or rule.arguments == "any"):
        return AskedFor("", (str(rule.id), str(rule.policy)))
    return AskedFor(verdict.roles[0], ("role", verdict.roles[0])) if verdict.roles else None


def requestable(asking: Asking, question: Question, asked: AskedFor, evaluation: str) -> JsonObject:
    """`context.access_request` of a denial that may be asked about."""
    expires = asking.at + LIFETIME
    claims: JsonObject = {
        "iss": settings.PUBLIC_URL,
        "aud": settings.PUBLIC_URL,
        "iat": int(asking.at.timestamp()),
        "exp": int(expires.timestamp()),
        "jti": uuid7().hex,
        "denial_expires_at": expires.isoformat(),
        # No member of the context is input to our decisions, so none is bound.
        "binding_context_members": [],
        "evaluation_id": evaluation,
        "policy": asked.mark,
    }
    return {
        "endpoint": url("requests"),
        "expires_at": expires.isoformat(),
        "binding_token": jose.sign(claims | bound(question.subject, question.action, question.resource), kind=KIND),
        "request_schema_url": url("request-schema.json"),
    }


def bound(subject: Entity, action: Action, resource: Entity) -> JsonObject:
    """The claims that say what was denied: the entities themselves, or their digest when they are long."""
    inline: JsonObject = {"subject": _without_act(subject), "resource": resource.data(), "action": action.data()}
    if len(canonical(inline)) <= MAX_INLINE:
        return inline
    return {"binding_hash": binding_hash(subject, action, resource)}


def binding_hash(subject: Entity, action: Action, resource: Entity) -> str:
    """The profile's hashed form: base64url of SHA-256 over the RFC 8785 form."""
    value: JsonObject = {
        "subject": _without_act(subject),
        "resource": resource.data(),
        "action": action.data(),
        "context": {},
    }
    return base64.urlsafe_b64encode(hashlib.sha256(canonical(value)).digest()).rstrip(b"=").decode()


def verified(denial: Mapping[str, Json], subject: Entity, action: Action, resource: Entity, at: datetime) -> JsonObject:
    """The claims of a denial's token, which is good now and about exactly this.

    Raises InvalidBinding or ExpiredDenial. Without a token there is nothing to verify: evaluations are not kept here.
    """
    token = denial.get("binding_token")
    if not isinstance(token, str):
        raise InvalidBinding("The denial holds no binding_token; evaluations are not kept here by their id.")
    try:
        claims = jose.verify(token, kind=KIND, issuer=settings.PUBLIC_URL, audience=settings.PUBLIC_URL)
    except Invalid:
        raise InvalidBinding("The binding_token was not made here, or it was changed.") from None
    wanted = bound(subject, action, resource)
    if not all(same(claims.get(name), value) for name, value in wanted.items()):
        raise InvalidBinding("The binding_token is about another subject, resource or action.")
    if "evaluation_id" in denial and denial["evaluation_id"] != claims["evaluation_id"]:
        raise InvalidBinding("The evaluation_id is not that of the binding_token.")
    echoed, expires = moment(denial.get("expires_at")), datetime.fromisoformat(str(claims["denial_expires_at"]))
    if echoed != expires:
        raise InvalidBinding("denial.expires_at is missing, or not that of the denied evaluation.")
    if at >= min(expires, datetime.fromtimestamp(int(str(claims["exp"])), UTC)):
        raise ExpiredDenial("The denial has expired; evaluate again for a fresh one.")
    return claims


def moment(value: Json) -> datetime | None:
    """An RFC 3339 timestamp; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _without_act(subject: Entity) -> JsonObject:
    """The subject as it is compared: its actor may be told elsewhere, in `client.actor`."""
    data = subject.data()
    properties = data.get("properties")
    if isinstance(properties, dict) and "act" in properties:
        data["properties"] = {name: value for name, value in properties.items() if name != "act"}
    return data
