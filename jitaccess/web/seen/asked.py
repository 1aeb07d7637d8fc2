"""What of the ledger somebody asks to see: the fields of the filter, read from the address and shown again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import QuerySet
from django.http import QueryDict

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.search import Sought
from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible
from requests_app.selectors import Grant

_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "requests": ("Requests and decisions", ("request.", "decision.")),
    "grants": ("Grants", ("grant.", "provision.")),
    "calls": ("Calls", ("call.",)),
    "refused": ("Refused calls", ("call.denied",)),
    "sign-in": ("Sign-in and tokens", ("user.", "session", "authenticator.", "identity.", "token.", "sign_in_link.")),
    "emergencies": ("Emergencies", ("break_glass.", "lock.", "clock.", "anomaly.")),
    "configuration": (
        "Configuration",
        (
            "agent.", "server.", "credential", "key.", "tool.", "role.", "policy.", "delegation.", "binding.",
            "configuration.", "slack.", "webhook.", "preference.",
        ),
    ),
}  # fmt: skip
_OUTCOMES = {Outcome.ALLOWED: "Allowed", Outcome.DENIED: "Refused", Outcome.ERROR: "Error"}
NOBODY = UUID(int=0)  # what a name that is nobody's is looked for as: nothing is found
_WRONG = Invalid("activity.filter", "There is no such part of the activity.")
_NAMES = ("what", "agent", "user", "server", "tool", "outcome", "request", "grant", "call", "since", "until", "view")


@dataclass(frozen=True, slots=True)
class Asked:
    """The filter as it was asked for (`values`, by field), what it means, and where on the list one is."""

    values: dict[str, str]
    sought: Sought
    before: UUID | None
    after: UUID | None

    @property
    def query(self) -> str:
        """Of the address, without the place on the list."""
        return urlencode(self.values)

    @property
    def latest(self) -> bool:
        return not self.before and not self.after

    def without(self, name: str) -> str:
        return "?" + urlencode({key: value for key, value in self.values.items() if key != name})

    def fields(self) -> list[dict[str, Any]]:
        """For parts/filters.html."""
        kinds = [("", "Everything"), *((name, label) for name, (label, _) in _GROUPS.items())]
        kinds += [(event.value, event.value.replace("_", " ")) for event in Event]
        outcomes = [("", "Any"), *_OUTCOMES.items()]
        given = self.values.get
        return [
            {"name": "what", "label": "What", "kind": "select", "value": given("what", ""), "choices": kinds},
            {"name": "agent", "label": "Agent", "kind": "text", "value": given("agent", "")},
            {"name": "user", "label": "Person", "kind": "text", "value": given("user", "")},
            {"name": "server", "label": "Server", "kind": "text", "value": given("server", "")},
            {"name": "tool", "label": "Tool", "kind": "text", "value": given("tool", "")},
            {"name": "outcome", "label": "Outcome", "kind": "select", "value": given("outcome", ""),
             "choices": outcomes},
            {"name": "since", "label": "From (UTC)", "kind": "datetime-local", "value": given("since", "")},
            {"name": "until", "label": "Until (UTC)", "kind": "datetime-local", "value": given("until", "")},
        ]  # fmt: skip

    def kept(self) -> list[tuple[str, str]]:
        """What has no field of its own."""
        return [(name, self.values[name]) for name in ("request", "grant", "call", "view") if name in self.values]

    def chosen(self) -> list[dict[str, str]]:
        found = []
        for name, value in self.values.items():
            if name == "view":
                continue
            label = _GROUPS[value][0] if name == "what" and value in _GROUPS else value
            short = {"request": "one request", "grant": "one grant", "call": "one call"}.get(name)
            text = short or (label if name == "what" else f"{name} {label}")
            found.append({"label": visible(text, limit=200), "url": self.without(name)})
        return found


def asked_of(query: QueryDict) -> Asked:
    """Raises Invalid for what is no filter; a name that is nobody's finds nothing."""
    values = {name: text for name in _NAMES if (text := str(query.get(name, "")).strip())}
    if any(len(value) > 200 or "\x00" in value for value in values.values()):
        raise _WRONG
    given = values.get
    request = _uid(given("request"))
    sought = Sought(
        events=_events(given("what", "")),
        agent=_id_of(Agent.objects.all(), "name", given("agent")),
        user=_id_of(User.objects.all(), "username", given("user")),
        server=_id_of(Server.objects.all(), "slug", given("server")),
        tool=given("tool", ""),
        outcome=_outcome(given("outcome", "")),
        request=request,
        given=Grant.objects.filter(request=request).values_list("pk", flat=True).first() if request else None,
        grant=_uid(given("grant")),
        call=_uid(given("call")),
        since=_time(given("since")),
        until=_time(given("until")),
    )
    return Asked(values, sought, _uid(query.get("before")), _uid(query.get("after")))


def _events(what: str) -> tuple[str, ...]:
    if what in _GROUPS:
        return tuple(event.value for event in Event if event.value.startswith(_GROUPS[what][1]))
    if what and what not in set(Event):
        raise _WRONG
    return (what,) if what else ()


def _outcome(text: str) -> str:
    if text and text not in _OUTCOMES:
        raise _WRONG
    return text


def _id_of(rows: QuerySet[Agent] | QuerySet[User] | QuerySet[Server], field: str, name: str | None) -> UUID | None:
    if not name:
        return None
    found: UUID | None = rows.filter(**{field: name}).values_list("pk", flat=True).first()
    return found or NOBODY


def _uid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise _WRONG from None


def _time(text: str | None) -> datetime | None:
    """As browsers write it, 2026-05-31T14:00; UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise _WRONG from None
    if found is None or not 2000 <= found.year < 9999:
        if found:
            raise _WRONG
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
