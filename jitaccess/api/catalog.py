"""Servers and their tools, read as in the admin, and what an agent may ask for."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db.models import F, Q
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.acting import asking_for
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Switch, Text, Whole, body, query
from jitaccess.api.policy_now import look
from jitaccess.api.schema import documented, listing
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.options import BOUNDS, MEANINGS
from jitaccess.catalog.services import classify_tool, set_options
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.listing import listed_tools
from jitaccess.store.paging import part_of
from requests_app import represent
from requests_app.asking import requestable_roles

MAX_REQUESTABLE = 500


class ToolQuery(Paged):
    server = serializers.CharField(required=False, max_length=32, help_text="A server's slug.")
    access = serializers.ChoiceField(choices=AccessClass.values, required=False)
    quarantined = serializers.BooleanField(required=False)


class RequestableQuery(Input):
    server = serializers.CharField(required=False, max_length=32, help_text="A server's slug.")
    search = serializers.CharField(required=False, max_length=100, help_text="In names and descriptions.")
    agent = serializers.CharField(required=False, max_length=40, help_text="People: an agent of yours.")
    for_me = serializers.BooleanField(required=False, help_text="People: if it acted on your behalf.")


class Classification(Input):
    access = serializers.ChoiceField(choices=AccessClass.values)
    digest = Text(max_length=80, help_text="Of the definition that you reviewed.")


def _option(name: str) -> Any:
    said: dict[str, Any] = {"required": False, "help_text": MEANINGS[name]}
    if name not in BOUNDS:
        return Switch(**said)
    least, most = BOUNDS[name]
    return Whole(min_value=least, max_value=most, **said)


class Options(Input):
    call_seconds = _option("call_seconds")
    let_finish_seconds = _option("let_finish_seconds")
    max_result_bytes = _option("max_result_bytes")
    identity_header = _option("identity_header")
    repeat_limit = _option("repeat_limit")
    accept_definitions = _option("accept_definitions")


class ServerList(Endpoint):
    @documented("servers_list", "Servers", "For staff.", tag="catalog", query=Paged, answer=listing(shapes.Server))
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading("jit_catalog.server")
        part = part_of(Server.objects.all(), **place(query(request, Paged)))
        return page(request, part, [_server(server) for server in part.rows])


class ServerShow(Endpoint):
    @documented("servers_show", "One server", "For staff.", tag="catalog", answer=shapes.Server)
    def get(self, request: Request, server_id: UUID) -> Response:
        caller_of(request).insist_on_reading("jit_catalog.server")
        return Response(_server(_server_of(server_id)))


class ServerOptions(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that server
        caller.insist("jit_catalog.change_server")

    @documented(
        "servers_set_options",
        "Set options of a server",
        "Those that are named; the others stay. In force for the next call.",
        tag="catalog",
        takes=Options,
        answer=shapes.Server,
        keyed=True,
    )
    @once
    def post(self, request: Request, server_id: UUID) -> Response:
        asked, caller = body(request, Options), caller_of(request)
        caller.insist("jit_catalog.change_server")
        server = _server_of(server_id)
        set_options(server=server, changes=asked, operator=caller.principal.actor())
        return Response(_server(server))


class ToolList(Endpoint):
    @documented("tools_list", "Tools", "For staff.", tag="catalog", query=ToolQuery, answer=listing(shapes.Tool))
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading("jit_catalog.tool")
        asked = query(request, ToolQuery)
        rows = Tool.objects.select_related("server").defer("definition", "pinned_definition")  # not shown, and large
        if "server" in asked:
            rows = rows.filter(server__slug=asked["server"])
        if "access" in asked:
            rows = rows.filter(access=asked["access"])
        if "quarantined" in asked:
            reviewed = Q(pin=F("digest"))
            rows = rows.filter(~reviewed if asked["quarantined"] else reviewed)
        part = part_of(rows, **place(asked))
        return page(request, part, [_tool(tool) for tool in part.rows])


class ToolShow(Endpoint):
    @documented("tools_show", "One tool", "For staff. With its definition.", tag="catalog", answer=shapes.FullTool)
    def get(self, request: Request, tool_id: UUID) -> Response:
        caller_of(request).insist_on_reading("jit_catalog.tool")
        return Response(_full(_found(tool_id)))


class ToolClassify(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that tool
        caller.insist("jit_catalog.change_tool")

    @documented(
        "tools_classify",
        "Review a tool",
        "Pins the definition with this digest and gives the tool a class. 409 when the server changed it since.",
        tag="catalog",
        takes=Classification,
        answer=shapes.FullTool,
        keyed=True,
    )
    @once
    def post(self, request: Request, tool_id: UUID) -> Response:
        asked, caller = body(request, Classification), caller_of(request)
        caller.insist("jit_catalog.change_tool")
        tool = _found(tool_id)
        classify_tool(
            tool=tool,
            access=AccessClass(asked["access"]),
            operator=caller.principal.actor(),
            digest=asked["digest"],
        )
        return Response(_full(_found(tool_id)))


class RequestableList(Endpoint):
    @documented(
        "requestable_list",
        "What you may ask for",
        f"Tools that are not allowed to an agent now and may be asked for, at most {MAX_REQUESTABLE}, and roles. For "
        "agents' tokens, and for people about an agent of theirs.",
        tag="requests",
        query=RequestableQuery,
        answer=shapes.Requestables,
    )
    def get(self, request: Request) -> Response:
        asked = query(request, RequestableQuery)
        principal = asking_for(caller_of(request), asked.get("agent"), for_me=asked.get("for_me", False))
        assert principal.agent
        snapshot, at = look(principal)
        who = Who(principal.agent, principal.user)
        items: list[Any] = []
        for server in sorted(snapshot.servers.values(), key=lambda one: one.slug):
            if len(items) >= MAX_REQUESTABLE:
                break
            if asked.get("server", server.slug) != server.slug:
                continue
            listed = listed_tools(snapshot, who=who, server=server, at=at)
            named = ((f"{server.slug}/{one.tool.name}", one) for one in listed)
            found: list[Any] = represent.requestable_data(named, asked.get("search", "").lower())
            items += [{"server": server.slug, **tool} for tool in found]
        # Roles are of no server.
        roles = [] if "server" in asked else requestable_roles(snapshot, principal.agent)
        named_roles = represent.requestable_roles_data(roles, asked.get("search", "").lower())
        return Response({"items": items[:MAX_REQUESTABLE], "roles": named_roles[:MAX_REQUESTABLE]})


def _server_of(server_id: UUID) -> Server:
    server = Server.objects.filter(pk=server_id).first()
    if server is None:
        raise NotFound("server.unknown", "There is no such server.")
    return server


def _found(tool_id: UUID) -> Tool:
    tool = Tool.objects.select_related("server").filter(pk=tool_id).first()
    if tool is None:
        raise NotFound("tool.unknown", "There is no such tool.")
    return tool


def _server(server: Server) -> dict[str, Any]:
    return {
        "server_id": str(server.pk),
        "slug": server.slug,
        "description": server.description,
        "enabled": server.enabled,
        "options": server.options.as_json(),
    }


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "tool_id": str(tool.pk),
        "server": tool.server.slug,
        "name": tool.name,
        "access": tool.access,
        "present": tool.present,
        "quarantined": tool.quarantined,
        "digest": tool.digest,
        "pin": tool.pin,
    }


def _full(tool: Tool) -> dict[str, Any]:
    return {**_tool(tool), "definition": tool.parsed}
