"""What is asked for, read from a body, and what would come of it."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from jitaccess.api.parsing import Id, Input, Moment, Switch, Text, Whole
from jitaccess.api.render import asked_items, plan_data
from jitaccess.kernel.errors import Invalid
from jitaccess.store.clock import now
from requests_app import represent
from requests_app.services import MAX_CONTEXT, Ask, ExactCall, Privileges, Submission

MAX_MINUTES = 525_600
_NAME = "Exact names, as server/tool, or as tool alone where `server` is given."


class AskedCall(Input):
    tool = Text(max_length=200, help_text=_NAME)
    arguments = serializers.DictField(required=False, help_text="Those very arguments; absent: none.")


class AskedPrivileges(Input):
    database = Text(max_length=200)
    objects = serializers.ListField(child=Text(max_length=200), min_length=1, max_length=50)
    privileges = serializers.ListField(child=Text(max_length=50), min_length=1, max_length=20)


class NewRequest(Input):
    tools = serializers.ListField(
        required=False, child=Text(max_length=200), min_length=1, max_length=50, help_text=_NAME
    )
    server = Text(required=False, max_length=32, help_text="The server of tools that name none.")
    calls = serializers.ListField(
        required=False,
        child=AskedCall(),
        max_length=10,
        help_text="Exact calls: good once, unless `max_uses` says otherwise.",
    )
    roles = serializers.ListField(required=False, child=Text(max_length=64), max_length=10, help_text="By name.")
    privileges = serializers.ListField(
        required=False, child=AskedPrivileges(), max_length=10, help_text="On objects of databases."
    )
    arguments_schema = serializers.DictField(
        required=False, help_text="JSON Schema (a subset) that limits the arguments of `tools`."
    )
    reason = Text(max_length=4000, help_text="What the approver decides on.")
    minutes = Whole(required=False, min_value=1, max_value=MAX_MINUTES)
    max_uses = Whole(required=False, min_value=1, max_value=1_000_000)
    starts_at = Moment(required=False, help_text="Absent: with the approval.")
    not_after = Moment(required=False, help_text="It ends then at the latest, whenever it was approved.")
    ticket = Text(required=False, allow_blank=True, max_length=100)
    supersedes = Id(required=False, help_text="A pending request of the same principal that this one replaces.")
    agent = Text(required=False, max_length=40, help_text="People: an agent of yours that will hold the access.")
    for_me = Switch(required=False, help_text="People: the agent will hold it on your behalf only.")
    context = serializers.DictField(  # type: ignore[assignment]  # the metaclass takes it out of the class
        required=False, help_text=f"Anything, in at most {MAX_CONTEXT} bytes."
    )
    dry_run = Switch(required=False, help_text="Say what would come of it, and write nothing.")


class NewExtension(Input):
    minutes = Whole(min_value=1, max_value=MAX_MINUTES, help_text="So much more.")
    reason = Text(max_length=4000, help_text="What the approver decides on.")
    ticket = Text(required=False, allow_blank=True, max_length=100)
    dry_run = Switch(required=False, help_text="Say what would come of it, and write nothing.")


def ask_of(asked: dict[str, Any]) -> Ask:
    """The members of a NewRequest as the service takes them. Raises Invalid for a tool of no server."""
    minutes, server = asked.get("minutes"), asked.get("server")
    return Ask(
        tools=[_tool(name, server) for name in asked.get("tools", ())],
        calls=[
            ExactCall(*_tool(call["tool"], server), arguments=call.get("arguments", {}))
            for call in asked.get("calls", ())
        ],
        roles=asked.get("roles", ()),
        privileges=[
            Privileges(one["database"], one["objects"], one["privileges"]) for one in asked.get("privileges", ())
        ],
        schema=asked.get("arguments_schema"),
        reason=asked["reason"],
        seconds=None if minutes is None else minutes * 60,
        max_uses=asked.get("max_uses"),
        starts_at=asked.get("starts_at"),
        not_after=asked.get("not_after"),
        ticket=asked.get("ticket", ""),
        context=asked.get("context", {}),
        supersedes=asked.get("supersedes"),
    )


def would_be(submission: Submission) -> dict[str, Any]:
    """What a dry run found: nothing of it is on record."""
    asked = submission.request
    return {
        "dry_run": True,
        "coalesced": submission.coalesced,
        "kind": asked.kind,
        "risk": asked.risk,
        "tools": asked.tool_labels,
        "items": asked_items(asked),
        "minutes": asked.seconds // 60,
        "max_uses": asked.max_uses,
        "policy": asked.policy_name,
        "plan": plan_data(asked, now()),
        **represent.approval_data(asked),
        "limits": {"max_minutes": submission.max_seconds // 60, "max_uses": submission.max_uses},
    }


def _tool(name: str, server: str | None) -> tuple[str, str]:
    """Names of tools may hold a slash, slugs of servers hold none: with `server`, "<server>/" may be left out."""
    slug, slash, tool = name.partition("/")
    if slash and (server is None or slug == server):
        return slug, tool
    if server is None:
        raise Invalid("request.tools", "Name tools as server/tool, or give `server`.")
    return server, name
