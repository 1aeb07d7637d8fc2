"""Deciding several requests at once: only such as ask for the very same, at low risk, and are shown whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from jitaccess.identity.models import User
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError
from jitaccess.store.clock import now
from jitaccess.web.context import note_waiting
from jitaccess.web.desk.deciding import CHANNEL
from requests_app import selectors, standing
from requests_app.card.card import Card, card_of, cards_of
from requests_app.lifecycle import RequestKind, Risk
from requests_app.pages import page, person_of, source_of
from requests_app.selectors import AccessRequest, Q
from requests_app.services import approve_request, deny_request
from requests_app.standing import Seen

MOST = 10
VERBS = {"approve": approve_request, "deny": deny_request}
Likeness = tuple[object, ...]


def likeness(request: AccessRequest) -> Likeness | None:
    """What is the same of all that may be decided together; None for what is decided alone."""
    plan = standing.plan_of(request)
    alone = request.kind != RequestKind.ACCESS or request.risk != Risk.LOW
    if alone or plan is None or plan.step_up or CHANNEL not in plan.channels:
        return None
    return (request.items, request.seconds, request.max_uses, request.starts_at, request.not_after)


def alike(waiting: Sequence[AccessRequest]) -> list[list[AccessRequest]]:
    """The groups of two and more."""
    groups: dict[Likeness, list[AccessRequest]] = defaultdict(list)
    for request in waiting:
        key = likeness(request)
        if key is not None:
            groups[key].append(request)
    return [group for group in groups.values() if len(group) > 1]


@page(back="web:inbox")
@require_http_methods(["GET", "HEAD", "POST"])
def bulk(request: HttpRequest) -> HttpResponse:
    """All of them with everything about each; then one decision on each of those that were chosen."""
    return _decide(request) if request.method == "POST" else _page(request)


def _page(request: HttpRequest) -> HttpResponse:
    user, like = person_of(request), _uuid(request.GET.get("like", ""))
    # The link names the first of its group, so that the others are behind it, however many wait before.
    where = Q(risk=Risk.LOW, pk__gte=like)
    waiting = selectors.desk_of(user, at=now(), recent=0, where=where).waiting
    group = next((group for group in alike(waiting) if like in {one.pk for one in group}), [])
    seen = [one for one in standing.look_at_each(user, group[:MOST]) if likeness(one.request) is not None]
    cards = [card for card in cards_of(seen, user) if _decides(card)]
    if len(cards) < 2:
        raise Conflict("bulk.none", "There is nothing left here to decide together.")
    context = {"cards": cards, "more": max(len(group) - MOST, 0), "first": cards[0], "now": cards[0].at}
    return render(request, "web/desk/bulk.html", context)


def _decide(request: HttpRequest) -> HttpResponse:
    user, verb = person_of(request), request.POST.get("verb", "")
    if verb not in VERBS:
        raise Invalid("bulk.verb", "Approve them, or deny them.")
    chosen = _chosen(user, request.POST.getlist("one"))
    for card in chosen:
        said = {"channel": CHANNEL, "digest": card.digest, "reason": request.POST.get("reason", "")}
        try:
            VERBS[verb](request_id=card.request, approver=user, source=source_of(request), **said)
        except JitAccessError as error:
            messages.error(request, f"{card.who}: {error.detail}")
        else:
            messages.success(request, f"{card.who}: your {'approval' if verb == 'approve' else 'denial'} is on record.")
    note_waiting(user, None)
    return redirect("web:inbox")


def _chosen(user: User, sent: Sequence[str]) -> list[Card]:
    """What was chosen, each as it was shown. Raises when any of them may not be decided with the others: then none is.

    Each value is the id and the digest of a request.
    """
    if not 1 <= len(set(sent)) == len(sent) <= MOST:
        raise Invalid("bulk.count", f"Choose 1 to {MOST} of them.")
    seen, cards = [], []
    for value in sent:
        name, _, digest = value.partition(" ")
        one = standing.look_at(user, _uuid(name))
        card = _card(user, one)
        if card is None:
            raise Forbidden(
                "bulk.alone", f"{one.request.agent.name}: this cannot be decided here. Nothing was decided."
            )
        if digest != card.digest:
            raise Conflict("bulk.changed", "What was shown is not what is asked for. Nothing was decided.")
        seen.append(one.request)
        cards.append(card)
    if len({likeness(one) for one in seen}) != 1:
        raise Invalid("bulk.differ", "These do not ask for the same. Nothing was decided.")
    return cards


def _card(user: User, seen: Seen) -> Card | None:
    """None for what this person cannot approve here, together with others."""
    if likeness(seen.request) is None:
        return None
    card = card_of(seen, user, channel=CHANNEL)
    return card if _decides(card) else None


def _decides(card: Card) -> bool:
    approve = card.effects.approve
    return bool(approve and not approve.step_up)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("bulk.unknown", "There is no such request.") from None
