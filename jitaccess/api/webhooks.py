"""Outgoing webhooks. People only; who may look and who may change is for the services to say.

What sends them is no part of the API: it is plugged in where both are put together.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Protocol
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import hook_shapes as shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import never, once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Moment, Nothing, Text, body, query
from jitaccess.api.schema import documented, listing
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store.paging import part_of

_EVENTS = 'Separated by spaces: "*" (all but calls), "request.*", "grant.revoked".'
_MANAGE = "For people with the permissions jit_webhooks.change_endpoint and jit_audit.view_entry."
_EXAMPLE = OpenApiExample(
    "What becomes of requests and access",
    value={"name": "siem", "url": "https://siem.example/hooks/jitaccess", "events": "request.* grant.*"},
    request_only=True,
)


class Hooks(Protocol):
    """Webhooks as plain data. Rows are known to it alone."""

    def endpoints(self, user: User) -> QuerySet[Any]: ...
    def endpoint(self, user: User, endpoint_id: UUID) -> Any: ...
    def managed(self, user: User, endpoint_id: UUID) -> Any: ...
    def create(
        self, user: User, operator: Actor, *, name: str, url: str, events: str, team: str
    ) -> tuple[Any, str]: ...
    def change(
        self, endpoint_id: UUID, operator: Actor, *, name: str | None, url: str | None, events: str | None
    ) -> tuple[Any, str]: ...
    def switch(self, endpoint_id: UUID, operator: Actor, *, on: bool) -> Any: ...
    def rotate(self, endpoint_id: UUID, operator: Actor) -> tuple[Any, str]: ...
    def remove(self, endpoint_id: UUID, operator: Actor) -> None: ...
    def test(self, endpoint_id: UUID, operator: Actor) -> Any: ...
    def replay(self, endpoint_id: UUID, delivery_id: UUID, operator: Actor) -> Any: ...
    def replay_since(self, endpoint_id: UUID, since: datetime, operator: Actor) -> int: ...
    def deliveries(self, row: Any, *, state: str = "", event: str = "") -> QuerySet[Any]: ...
    def delivery(self, row: Any, delivery_id: UUID) -> Any: ...
    def endpoint_data(self, row: Any) -> JsonObject: ...
    def delivery_data(self, row: Any, *, whole: bool = False) -> JsonObject: ...


_PLUGGED: list[Hooks] = []


def plug(hooks: Hooks) -> None:
    """What these addresses are about from now on."""
    _PLUGGED[:] = [hooks]


def _hooks() -> Hooks:
    if not _PLUGGED:
        raise Unavailable("webhook.absent", "This process knows no webhooks.")
    return _PLUGGED[0]


class NewWebhook(Input):
    name = Text(max_length=40)
    url = Text(max_length=500)
    events = Text(max_length=2000, help_text=_EVENTS)
    team = Text(required=False, max_length=100, help_text="By name: only of its agents. Absent: everything.")


class ChangedWebhook(Input):
    name = Text(required=False, max_length=40)
    url = Text(required=False, max_length=500, help_text="Another host gets another secret.")
    events = Text(required=False, max_length=2000, help_text=_EVENTS)


class Since(Input):
    since = Moment(help_text="Of the last 30 days. What it did not take since then is sent again.")


class DeliveryQuery(Paged):
    state = serializers.ChoiceField(required=False, choices=shapes.STATES)
    event = Text(required=False, max_length=64)


class OfWebhook(Endpoint):
    """Something that is done to one of them, by whoever may change it."""

    people_only: ClassVar[frozenset[str]] = frozenset({"GET", "POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that webhook
        if not self.request.path.endswith("/remove"):  # which has nothing to tell
            _hooks().managed(caller.decider(), self.kwargs["webhook_id"])

    def acting(self, request: Request, webhook_id: UUID) -> Actor:
        """Who does it. Raises NotFound, Forbidden."""
        caller = caller_of(request)
        _hooks().managed(caller.decider(), webhook_id)
        return caller.principal.actor()


class WebhookList(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET", "POST"})

    @documented(
        "webhooks_list",
        "Webhooks that you may see",
        "All of them for whoever may change them; for others those of their teams.",
        tag="webhooks",
        query=Paged,
        answer=listing(shapes.Webhook),
    )
    def get(self, request: Request) -> Response:
        asked, hooks = query(request, Paged), _hooks()
        part = part_of(hooks.endpoints(caller_of(request).decider()), **place(asked))
        return page(request, part, [hooks.endpoint_data(row) for row in part.rows])

    @documented(
        "webhooks_create",
        "Make a webhook",
        f"The answer holds its secret, this once. {_MANAGE}",
        tag="webhooks",
        takes=NewWebhook,
        answer=shapes.WebhookWithSecret,
        status=201,
        examples=[_EXAMPLE],
    )
    @never
    def post(self, request: Request) -> Response:
        asked, caller = body(request, NewWebhook), caller_of(request)
        given = {"name": asked["name"], "url": asked["url"], "events": asked["events"], "team": asked.get("team", "")}
        row, secret = _hooks().create(caller.decider(), caller.principal.actor(), **given)
        return Response(_told(row, secret), status=201)


class WebhookShow(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET"})

    @documented("webhooks_show", "One webhook", "Never its secret.", tag="webhooks", answer=shapes.Webhook)
    def get(self, request: Request, webhook_id: UUID) -> Response:
        hooks = _hooks()
        return Response(hooks.endpoint_data(hooks.endpoint(caller_of(request).decider(), webhook_id)))


class WebhookChange(OfWebhook):
    @documented(
        "webhooks_change",
        "Change a webhook",
        f"What is absent stays. `secret` is null unless another host made a new one necessary. {_MANAGE}",
        tag="webhooks",
        takes=ChangedWebhook,
        answer=shapes.WebhookWithSecret,
    )
    @never
    def post(self, request: Request, webhook_id: UUID) -> Response:
        asked, operator = body(request, ChangedWebhook), self.acting(request, webhook_id)
        given = {name: asked.get(name) for name in ("name", "url", "events")}
        return Response(_told(*_hooks().change(webhook_id, operator, **given)))


class WebhookRotate(OfWebhook):
    @documented(
        "webhooks_rotate",
        "Make a new secret",
        f"Told this once. The one before signs too for a day. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.WebhookWithSecret,
    )
    @never
    def post(self, request: Request, webhook_id: UUID) -> Response:
        body(request, Nothing)
        return Response(_told(*_hooks().rotate(webhook_id, self.acting(request, webhook_id))))


class WebhookPause(OfWebhook):
    @documented(
        "webhooks_pause",
        "Stop sending",
        f"What waits stays; what happens meanwhile is not owed, but can be sent again later. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.Webhook,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID) -> Response:
        return _switched(self, request, webhook_id, on=False)


class WebhookResume(OfWebhook):
    @documented(
        "webhooks_resume",
        "Send again",
        f"Also after it was switched off for taking nothing. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.Webhook,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID) -> Response:
        return _switched(self, request, webhook_id, on=True)


class WebhookRemove(OfWebhook):
    @documented(
        "webhooks_remove",
        "Remove a webhook",
        f"With its secret and its deliveries; the ledger keeps that it was there. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.Removed,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID) -> Response:
        body(request, Nothing)
        _hooks().remove(webhook_id, self.acting(request, webhook_id))
        return Response({"webhook_id": str(webhook_id), "removed": True})


class WebhookTest(OfWebhook):
    @documented(
        "webhooks_test",
        "Send a test",
        "One message of the event webhook.tested, sent and signed as every other, whatever the webhook is told of. "
        f"The delivery tells what was answered. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.Delivery,
        status=201,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID) -> Response:
        body(request, Nothing)
        hooks = _hooks()
        made = hooks.test(webhook_id, self.acting(request, webhook_id))
        return Response(hooks.delivery_data(made), status=201)


class WebhookReplay(OfWebhook):
    @documented(
        "webhooks_replay",
        "Send again what was not taken since a time",
        f"From the ledger, oldest first, at most 1,000 messages at once. {_MANAGE}",
        tag="webhooks",
        takes=Since,
        answer=shapes.Replayed,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID) -> Response:
        asked = body(request, Since)
        return Response(
            {"messages": _hooks().replay_since(webhook_id, asked["since"], self.acting(request, webhook_id))}
        )


class DeliveryList(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET"})

    @documented(
        "deliveries_list",
        "What was and is owed to a webhook, latest first",
        "What is done is kept for 30 days.",
        tag="webhooks",
        query=DeliveryQuery,
        answer=listing(shapes.Delivery),
    )
    def get(self, request: Request, webhook_id: UUID) -> Response:
        asked, hooks = query(request, DeliveryQuery), _hooks()
        row = hooks.endpoint(caller_of(request).decider(), webhook_id)
        rows = hooks.deliveries(row, state=asked.get("state", ""), event=asked.get("event", ""))
        part = part_of(rows, **place(asked))
        return page(request, part, [hooks.delivery_data(one) for one in part.rows])


class DeliveryShow(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"GET"})

    @documented(
        "deliveries_show",
        "One delivery",
        "With the body that is sent, and how the latest answer began.",
        tag="webhooks",
        answer=shapes.FullDelivery,
    )
    def get(self, request: Request, webhook_id: UUID, delivery_id: UUID) -> Response:
        hooks = _hooks()
        row = hooks.endpoint(caller_of(request).decider(), webhook_id)
        return Response(hooks.delivery_data(hooks.delivery(row, delivery_id), whole=True))


class DeliveryReplay(OfWebhook):
    @documented(
        "deliveries_replay",
        "Send a message again",
        f"Under its old message_id, so that a receiver that had it knows. {_MANAGE}",
        tag="webhooks",
        takes=Nothing,
        answer=shapes.Delivery,
        status=201,
        keyed=True,
    )
    @once
    def post(self, request: Request, webhook_id: UUID, delivery_id: UUID) -> Response:
        body(request, Nothing)
        hooks = _hooks()
        made = hooks.replay(webhook_id, delivery_id, self.acting(request, webhook_id))
        return Response(hooks.delivery_data(made), status=201)


def _switched(view: OfWebhook, request: Request, webhook_id: UUID, *, on: bool) -> Response:
    body(request, Nothing)
    hooks = _hooks()
    return Response(hooks.endpoint_data(hooks.switch(webhook_id, view.acting(request, webhook_id), on=on)))


def _told(row: Any, secret: str) -> dict[str, Any]:
    return {**_hooks().endpoint_data(row), "secret": secret or None}
