"""Access Request submissions (Access Request and Approval Profile, "Access Request Submission"), read and verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from jitaccess.api.authzen import binding
from jitaccess.api.authzen.asking import Asking
from jitaccess.api.authzen.deciding import verdict_of
from jitaccess.api.authzen.entities import (
    Action,
    Entity,
    Question,
    a_list,
    action,
    an_object,
    any_text,
    entity,
    malformed,
    optional,
    required,
)
from jitaccess.api.authzen.metadata import MAX_USES
from jitaccess.api.authzen.problems import InvalidBinding, NotRequestable
from jitaccess.api.authzen.vocabulary import Target
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Who
from requests_app.services import Ask, ExactCall

MAX_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Item:
    resource: Entity
    action: Action
    denial: JsonObject


@dataclass(frozen=True, slots=True)
class Submission:
    subject: Entity
    items: tuple[Item, ...]
    bundle: bool
    justification: str
    requested: JsonObject
    client: JsonObject


def read(body: Mapping[str, Json]) -> Submission:
    """Raises Invalid, or InvalidBinding where an item comes without a denial."""
    subject = required(body, "subject", entity)
    listed = optional(body, "items", a_list)
    bundle = listed is not None
    if bundle and ("resource" in body or "action" in body):
        raise malformed("items", "resource and action in its items only, not beside it")
    if "callback" in body:
        # The profile: an endpoint that nobody allowed for this caller has to be rejected. None can be allowed here.
        raise Invalid("authzen.callback", "Callbacks are not sent; ask the task for its status.")
    context = optional(body, "context", an_object) or {}
    top = optional(body, "denial", an_object)
    if listed is None:
        items = [Item(required(body, "resource", entity), required(body, "action", action), _denial(top))]
    else:
        if not 1 <= len(listed) <= MAX_ITEMS:
            raise malformed("items", f"1 to {MAX_ITEMS} items")
        items = [_item(one, f"items[{number}]") for number, one in enumerate(listed)]
    return Submission(
        subject,
        tuple(items),
        bundle,
        optional(context, "business_justification", any_text, "context.") or "",
        optional(body, "requested_access", an_object) or {},
        optional(body, "client", an_object) or {},
    )


def _item(value: Json, where: str) -> Item:
    members = an_object(value, where)
    return Item(
        required(members, "resource", entity, f"{where}."),
        required(members, "action", action, f"{where}."),
        # Tokens are made for one question each, so that one for a whole bundle cannot be ours.
        _denial(optional(members, "denial", an_object, f"{where}.")),
    )


def _denial(value: JsonObject | None) -> JsonObject:
    if value is None:
        raise InvalidBinding("Each resource and action needs the denial that it was answered with.")
    return value


def ensure_actor(asking: Asking, client: JsonObject, who: Who) -> None:
    """A claimed chain of actors has to be what the caller's credential says: the agent, for the user it acts for.

    Raises Forbidden for any other ("Delegation and On-Behalf-Of").
    """
    if "actor" not in client:
        return
    wrong = Forbidden("authzen.actor", "client.actor is not who your credential says that you are.")
    actor = an_object(client["actor"], "client.actor")
    agent = asking.snapshot.agents.get(who.agent)
    names = {agent.name, str(agent.id)} if agent else set()
    if actor.get("id") not in names or actor.get("issuer", settings.PUBLIC_URL) != settings.PUBLIC_URL:
        raise wrong
    if "act" in actor:
        act, user = actor["act"], asking.snapshot.users.get(who.user) if who.user else None
        for_whom = {user.name, str(user.id)} if user else set()
        if not isinstance(act, dict) or "act" in act or act.get("sub") not in for_whom:
            raise wrong
        if act.get("iss", settings.PUBLIC_URL) != settings.PUBLIC_URL:
            raise wrong


@dataclass(frozen=True, slots=True)
class Verified:
    """What a submission asks for, once every item is bound to a denial that would be given again now."""

    ask: Ask
    tokens: tuple[str, ...]


def verified(asking: Asking, given: Submission, who: Who) -> Verified:
    """Raises InvalidBinding, ExpiredDenial, NotRequestable or Invalid."""
    tokens: list[str] = []
    evaluations: list[Json] = []
    hashes: list[Json] = []
    targets: list[Target] = []
    roles: set[str] = set()
    for item in given.items:
        claims = binding.verified(item.denial, given.subject, item.action, item.resource, asking.at)
        target = asking.target(Question(given.subject, item.action, item.resource))
        if isinstance(target, str):
            raise NotRequestable("This is nothing that can be asked for.")
        asked = binding.asked_for(verdict_of(asking, who, target, {}), target)
        if asked is None or asked.mark != claims["policy"]:
            raise NotRequestable("What may be asked for has changed since the denial; evaluate again.")
        tokens.append(str(claims["jti"]))
        evaluations.append(claims["evaluation_id"])
        hashes.append(binding.binding_hash(given.subject, item.action, item.resource))
        roles.update({asked.role} - {""})
        targets += [] if asked.role else [target]
    bound: JsonObject = {
        "evaluations": evaluations,
        "bindings": hashes,
        "filed_by": asking.caller.principal.key,
        "client": _audited(given.client),
    }
    if given.bundle:
        bound["items"] = [{"resource": one.resource.data(), "action": one.action.data()} for one in given.items]
    if given.requested.get("emergency") is True:
        bound["emergency"] = True
    ask = Ask(
        tools=[(one.server, one.name) for one in targets if not one.exact],
        calls=[ExactCall(one.server, one.name, one.arguments) for one in targets if one.exact],
        roles=sorted(roles),
        reason=given.justification,
        seconds=_seconds(given.requested, asking.at),
        max_uses=_max_uses(given.requested),
        context={"authzen": bound},
    )
    return Verified(ask, tuple(tokens))


def _seconds(requested: JsonObject, at: datetime) -> int | None:
    value = requested.get("requested_until")
    if value is None:
        return None
    until = binding.moment(value)
    if until is None:
        raise malformed("requested_access.requested_until", "an RFC 3339 timestamp with an offset")
    return int((until - at).total_seconds())


def _max_uses(requested: JsonObject) -> int | None:
    value = requested.get(MAX_USES)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise malformed(f"requested_access.{MAX_USES}", "a whole number")
    return value


def _audited(client: JsonObject) -> JsonObject:
    """What the client says of itself, for the record only: nothing is decided by it."""
    return {
        name: visible(value, limit=200)
        for name, value in client.items()
        if name in {"id", "name"} and isinstance(value, str)
    }
