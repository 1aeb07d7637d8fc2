"""What one person is told: names and lines of text, made from stored data when it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from django.conf import settings

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.text import visible
from jitaccess.notify.models import Delivery
from requests_app.card.card import card_of
from requests_app.card.lines import Lines, card_lines
from requests_app.selectors import AccessRequest
from requests_app.standing import look

_SAYS = {
    Event.REQUEST_SUBMITTED: "{who} asks for {what} for {long}",
    Event.REQUEST_REMINDED: "Still waiting: {who} asks for {what} for {long}",
    Event.REQUEST_ESCALATED: "Nobody has decided yet: {who} asks for {what} for {long}",
    Event.REQUEST_APPROVED: "Approved: {who} may use {what} for {long}",
    Event.REQUEST_DENIED: "Denied: {who} asked for {what}",
    Event.REQUEST_EXPIRED: "Nobody decided: {who} asked for {what}",
    Event.REQUEST_INVALIDATED: "Void: {who} asked for {what}",
    Event.GRANT_EXPIRED: "Time is up: {who} can no longer use {what}",
    Event.GRANT_RELEASED: "Given back: {who} no longer uses {what}",
    Event.GRANT_REVOKED: "Revoked: {who} can no longer use {what}",
    Event.GRANT_SUBJECT_DISABLED: "Ended with the agent: {who} can no longer use {what}",
    Event.GRANT_TARGET_REMOVED: "Nothing left of it: {who} can no longer use {what}",
    Event.BREAK_GLASS_USED: "Break-glass: {who} has {what} for {long}",
    Event.BREAK_GLASS_REVIEWED: "Reviewed: {who} had {what} by break-glass",
}
TOLD_EVENTS = frozenset(_SAYS)
# No event of the ledger: only a notice.
GRANT_EXPIRING = "grant.expiring"
_EXPIRING = "Ends in a few minutes: {who} can use {what}"
# What only asks for a decision is not sent when there is nothing left to decide.
ASKING = frozenset({Event.REQUEST_SUBMITTED, Event.REQUEST_REMINDED, Event.REQUEST_ESCALATED})
# Reviewers read what they have to know there; the request itself is for those whom it concerns.
_BREAK_GLASS = frozenset({Event.BREAK_GLASS_USED, Event.BREAK_GLASS_REVIEWED})


# Of the card: what an outcome is told with. Who is asked gets all of it.
_BRIEF = frozenset(
    {
        "who",
        "owner",
        "filed by",
        "asks for",
        "for",
        "more time",
        "starts",
        "given",
        "why",
        "ticket",
        "status",
        "decided",
    }
)
_NEVER = frozenset({"page", "digest"})  # the page is linked, and a digest is for programs
_LINE = 4000  # characters of one line of the card; the page has all of it
_MOST = 60  # lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """`subject` is one line of names only; `lines` quote agents, people and servers, inert.

    `url` carries no authority: the page behind it asks who you are. `about`: what it belongs to, so that mail programs
    show notices of one request together.
    """

    id: UUID
    to: str
    address: str
    subject: str
    lead: str = ""
    lines: Lines
    url: str
    action: str
    why: str
    about: UUID

    @property
    def body(self) -> str:
        """All of it as plain text; what others wrote stands behind "> "."""
        lines = "\n".join(_quoted(name, text) for name, text in self.lines)
        parts = [f"{self.subject}.", self.lead, lines, f"{self.action}: {self.url}", f"{self.why} {_OTHERWISE}"]
        preferences = f"What you are told of: {settings.PUBLIC_URL}/preferences/"
        return "\n\n".join(part for part in (*parts, preferences) if part) + "\n"


_OTHERWISE = "This message decides nothing: the page asks who you are."
# Sends one notice, or raises: then it is tried again later.
Channel: TypeAlias = Callable[[Notice], None]


def notice_of(delivery: Delivery, request: AccessRequest) -> Notice:
    """The agent's own words never come into the subject: a subject is read as if jitaccess had written it."""
    who = f"{request.agent.name} for {request.user.username}" if request.user else request.agent.name
    labels = request.tool_labels
    what = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    says = _EXPIRING if delivery.event == GRANT_EXPIRING else _SAYS[Event(delivery.event)]
    says = says.format(who=who, what=what, long=format_duration(request.seconds))
    review = delivery.event in _BREAK_GLASS
    # The log has one line: to read all of the card for it would be for nothing.
    lines = [] if delivery.channel == "console" else card_lines(card_of(look(request.pk), None, channel="email"))
    asking = delivery.event in ASKING
    return _notice(
        delivery,
        subject=visible(says, limit=200),
        lines=[line for line in lines if line[0] not in _NEVER and (asking or line[0] in _BRIEF)],
        path="break-glass/" if review else f"requests/{request.pk}/",
        action="Look at the break-glass page" if review else "Open the request",
        why=_WHY_ASKED if asking else _WHY_SKIPPED if review else _WHY_THEIRS,
        about=request.pk,
    )


_WHY_ASKED = "You get this because you can decide on it."
_WHY_SKIPPED = "You get this because you would have been asked, or because the agent is yours."
_WHY_THEIRS = "You get this because the agent is yours, or acts for you."
_WHY_REVIEW = "You get this because you may review tools."
_WHY_WEBHOOK = "You get this because you made the webhook, or may mend it."


def quarantine_notice(delivery: Delivery, *, server: str, tools: list[str]) -> Notice:
    """Tools changed after their review. Their names only: what a server says is read on the review page, made inert."""
    says = visible(f"Changed since its review: {', '.join(tools[:3])} of {server}", limit=180)
    return _notice(
        delivery,
        subject=says + (f" and {len(tools) - 3} more" if len(tools) > 3 else ""),
        lead="Nobody can call what changed until somebody has looked at it and classified it again.",
        lines=[("server", server), ("tools", "\n".join(visible(tool, limit=200) for tool in tools))],
        path=f"admin/jit_catalog/tool/?state=changed&q={server}",
        action="Review it",
        why=_WHY_REVIEW,
    )


def webhook_notice(delivery: Delivery, entry: Entry) -> Notice:
    """A webhook was switched off by the rule for dead ones."""
    data = json.loads(entry.data)
    return _notice(
        delivery,
        subject=visible(f"Switched off: the webhook {data['webhook']}", limit=180),
        lead="Nothing is sent to it any more. What it missed can be sent again from its page, once it is on again.",
        lines=[(name, visible(str(data[key]), limit=300)) for name, key in (("why", "why"), ("leads to", "host"))],
        path=f"webhooks/{data['id']}/",
        action="Open the webhook",
        why=_WHY_WEBHOOK,
    )


def _notice(
    delivery: Delivery,
    *,
    subject: str,
    lines: Lines,
    path: str,
    action: str,
    why: str,
    lead: str = "",
    about: UUID | None = None,
) -> Notice:
    return Notice(
        id=delivery.pk,
        to=delivery.user.username,
        address=delivery.user.email,
        subject=subject,
        lead=lead,
        lines=_for_mail(lines),
        url=f"{settings.PUBLIC_URL}/{path}",
        action=action,
        why=why,
        about=about or delivery.entry,
    )


def _for_mail(lines: Iterable[tuple[str, str]]) -> Lines:
    """Shortened, and with addresses spelt so that no mail program makes a link of them: in a message of ours a link of
    an agent's would be ours to whoever reads it.
    """
    found = [(name, _cut(text)) for name, text in lines]
    rest = [("more", "The page has all of it.")] if len(found) > _MOST else []
    return [*found[:_MOST], *rest]


def _cut(text: str) -> str:
    text = text if len(text) <= _LINE else f"{text[:_LINE]} … (cut here: the page has all of it)"
    return _LINKED.sub(lambda found: found[0].replace(":", "[:]").replace(".", "[.]"), text)


_LINKED = re.compile(r"://|\bwww\.|\bmailto:", re.IGNORECASE)


def _quoted(name: str, text: str) -> str:
    lines = text.split("\n")
    return f"{name}: {text}" if len(lines) == 1 else "\n".join([f"{name}:", *(f"> {line}" for line in lines)])
