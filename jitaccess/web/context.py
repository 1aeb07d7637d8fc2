"""What every page has around it: where one can go from here, and how much waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject

from jitaccess.identity.models import User

# A count in the navigation may be so old, in seconds.
_FRESH = 30


@dataclass(frozen=True, slots=True)
class Item:
    """A link of the navigation; `here`: it leads to this page, or to what this page belongs to."""

    label: str
    url: str
    icon: str = ""
    here: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Links under one heading, "" for the first."""

    label: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Nav:
    """`person` is about oneself."""

    groups: tuple[Group, ...]
    person: tuple[Item, ...]


# Label, URL name, icon, and the URL names of what belongs to it.
_PLACES: tuple[tuple[str, tuple[tuple[str, str, str, frozenset[str]], ...]], ...] = (
    (
        "",
        (
            ("Inbox", "web:inbox", "inbox", frozenset({"bulk"})),
            (
                "Requests",
                "web:requests",
                "list",
                frozenset({"request", "approve", "deny", "changes", "comment"}),
            ),
            ("My access", "web:mine", "key", frozenset({"new", "new_dry_run", "file"})),
        ),
    ),
    (
        "Access",
        (
            ("Agents", "web:agents", "agent", frozenset({"agent"})),
            ("Grants", "web:grants", "grant", frozenset()),
            ("Activity", "web:activity", "pulse", frozenset({"activity_entry"})),
            ("Overview", "web:overview", "chart", frozenset({"anomalies", "anomaly"})),
            ("Servers", "web:servers", "server", frozenset({"server"})),
        ),
    ),
    (
        "More",
        (
            ("Simulator", "web:simulator", "flask", frozenset()),
            ("Locks", "web:locks", "lock", frozenset()),
            ("Break-glass", "web:break_glass", "glass", frozenset()),
            ("Away", "web:away", "moon", frozenset()),
        ),
    ),
)
_PERSON = (
    ("Preferences", "notify:preferences"),
    ("Sign-in and sessions", "mfa_index"),
)


def nav(request: HttpRequest) -> dict[str, Any]:
    """A context processor: `nav` of a signed-in person; made when a template asks for it, once for a request."""
    user = getattr(request, "user", None)
    if not isinstance(user, User):
        return {}
    return {"nav": SimpleLazyObject(lambda: _nav(request, user))}


def note_waiting(user: User, count: int | None) -> None:
    """For views that know how many requests wait for this person, or (None) that it is another number now."""
    key = f"waiting:{user.pk}"
    if count is None:
        cache.delete(key)
    else:
        cache.set(key, count, _FRESH)


def _waiting(user: User) -> int:
    """As somebody noted last; 0 when nobody did. To count costs several queries, on every page."""
    return int(cache.get(f"waiting:{user.pk}") or 0)


def _nav(request: HttpRequest, user: User) -> Nav:
    match = request.resolver_match
    here = match.view_name if match else ""
    groups = []
    for label, places in _PLACES:
        items = [_item(user, place, here) for place in places]
        staff = label == "More" and user.is_staff
        if staff and user.has_perms(["jit_webhooks.change_endpoint", "jit_audit.view_entry"]):
            here_too = here.startswith("notify:webhook")
            items.append(Item("Webhooks", reverse("notify:webhooks"), "link", here_too))
        if staff:
            items.append(Item("Admin", reverse("admin:index"), "gear"))
        groups.append(Group(label, tuple(items)))
    return Nav(tuple(groups), tuple(_person(here)))


def _item(user: User, place: tuple[str, str, str, frozenset[str]], here: str) -> Item:
    label, name, icon, parts = place
    current = here == name or (here.startswith("web:") and here.removeprefix("web:") in parts)
    count = _waiting(user) if name == "web:inbox" else 0
    return Item(label, reverse(name), icon, current, count)


def _person(here: str) -> Iterable[Item]:
    slack = (("Slack", "slack:slack_install"),) if settings.SLACK_BOT_TOKEN else ()
    return (Item(label, reverse(name), here=here == name) for label, name in (*_PERSON, *slack))
