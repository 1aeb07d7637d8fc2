"""What one person is told about one request: plain text, made from stored data when it is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from django.conf import settings

from jitaccess.audit.events import Event
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.text import visible
from jitaccess.notify.models import Delivery
from requests_app.selectors import AccessRequest

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """`subject` is one line of names only; `body` quotes the agent.

    `url` carries no authority: the page behind it asks who you are.
    """

    to: str
    address: str
    subject: str
    body: str
    url: str


# Sends one notice, or raises: then it is tried again later.
Channel: TypeAlias = Callable[[Notice], None]


def notice_of(delivery: Delivery, request: AccessRequest) -> Notice:
    """The agent's own words never come into the subject: a subject is read as if jitaccess had written it."""
    who = f"{request.agent.name} for {request.user.username}" if request.user else request.agent.name
    labels = request.tool_labels
    what = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    says = _EXPIRING if delivery.event == GRANT_EXPIRING else _SAYS[Event(delivery.event)]
    says = says.format(who=who, what=what, long=format_duration(request.seconds))
    path = "break-glass/" if delivery.event in _BREAK_GLASS else f"requests/{request.pk}/"
    url = f"{settings.PUBLIC_URL}/{path}"
    reason = "\n".join(f"> {line}" for line in visible(request.reason, limit=2000, multiline=True).split("\n"))
    classes = [f" ({tool['access']})" for item in request.parsed_items for tool in item.get("tools", ())]
    classes = classes if len(classes) == len(labels) else [""] * len(labels)
    asked = "\n".join(visible(f"- {label}{one}", limit=300) for label, one in zip(labels, classes, strict=True))
    says = visible(says, limit=200)
    whose = f"In the words of {request.filed_by.username}" if request.filed_by else "The agent's own words"
    body = f"{says}.\n\n{asked}\n\n{whose}:\n{reason}\n\nOpen it: {url}\n"
    return Notice(to=delivery.user.username, address=delivery.user.email, subject=says, body=body, url=url)


def quarantine_notice(delivery: Delivery, *, server: str, tools: list[str]) -> Notice:
    """Tools changed after their review. Their names only: what a server says is read on the review page, made inert."""
    url = f"{settings.PUBLIC_URL}/admin/jit_catalog/tool/?state=changed&q={server}"
    says = visible(f"Changed since its review: {', '.join(tools[:3])} of {server}", limit=180)
    says += f" and {len(tools) - 3} more" if len(tools) > 3 else ""
    body = (
        f"{says}.\n\nNobody can call what changed until somebody has looked at it and classified it again.\n\n{url}\n"
    )
    return Notice(to=delivery.user.username, address=delivery.user.email, subject=says, body=body, url=url)
