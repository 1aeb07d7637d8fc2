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
    Event.REQUEST_APPROVED: "Approved: {who} may use {what} for {long}",
    Event.REQUEST_DENIED: "Denied: {who} asked for {what}",
    Event.REQUEST_EXPIRED: "Nobody decided: {who} asked for {what}",
    Event.REQUEST_INVALIDATED: "Void: {who} asked for {what}",
    Event.GRANT_EXPIRED: "Time is up: {who} can no longer use {what}",
    Event.GRANT_RELEASED: "Given back: {who} no longer uses {what}",
    Event.GRANT_REVOKED: "Revoked: {who} can no longer use {what}",
    Event.GRANT_SUBJECT_DISABLED: "Ended with the agent: {who} can no longer use {what}",
}
TOLD_EVENTS = frozenset(_SAYS)


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
    says = _SAYS[Event(delivery.event)].format(who=who, what=what, long=format_duration(request.seconds))
    url = f"{settings.PUBLIC_URL}/requests/{request.pk}/"
    reason = "\n".join(f"> {line}" for line in visible(request.reason, limit=2000, multiline=True).split("\n"))
    items = [(item["server"], tool) for item in request.parsed_items for tool in item["tools"]]
    tools = "\n".join(f"- {server}/{tool['name']} ({tool['access']})" for server, tool in items)
    says = visible(says, limit=200)
    body = f"{says}.\n\n{tools}\n\nThe agent's own words:\n{reason}\n\nOpen the request: {url}\n"
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
