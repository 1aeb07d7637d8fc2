"""What one URL speaks for: a server under its own tool names, or all that a principal can reach, as <slug>__<tool>."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from jitaccess.gateway.seeing.listing import signature, tools_json
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible
from jitaccess.policy.engine import offers
from jitaccess.policy.engine.decide import Kind, Who, reachable
from jitaccess.policy.engine.listing import Listed, listed_tools
from jitaccess.policy.engine.rules import ServerFacts, Snapshot

PATH = "/mcp"
PREFIX = f"{PATH}/"
# Slugs hold no underscore, so that a name splits in one way only.
SEPARATOR = "__"


def serves(path: str) -> bool:
    """Whether a request for `path` is the gateway's."""
    return path == PATH or path.startswith(PREFIX)


class Target(msgspec.Struct, frozen=True):
    """One tool, resource or prompt: whose it is (None: of no server here), its true name or URI, and what clients
    here call it.
    """

    server: UUID | None
    server_name: str
    tool: str
    public: str
    kind: Kind = Kind.TOOL


class Endpoint(msgspec.Struct, frozen=True):
    """The endpoint of one server, or with both members empty the one of all servers."""

    server: UUID | None = None
    slug: str = ""

    def servers(self, snapshot: Snapshot, who: Who) -> list[ServerFacts]:
        """The servers behind it that are there for this principal, by name."""
        if self.server is not None:
            server = snapshot.servers.get(self.server)
            return [server] if server is not None else []
        open_ = (server for server in snapshot.servers.values() if reachable(snapshot, who=who, server=server))
        return sorted(open_, key=lambda server: server.slug)

    def tools(self, snapshot: Snapshot, who: Who, at: datetime) -> list[tuple[str, Listed]]:
        """What this principal may know about here, visible or locked, each under its public name."""
        return [
            (self.public(server.slug, one.tool.name), one)
            for server in self.servers(snapshot, who)
            for one in listed_tools(snapshot, who=who, server=server, at=at)
        ]

    def tools_json(self, snapshot: Snapshot, who: Who, at: datetime) -> list[bytes]:
        """Their definitions as JSON, each under its public name."""
        return [
            one
            for server in self.servers(snapshot, who)
            for one in tools_json(snapshot, who=who, server=server, at=at, prefix=self.public(server.slug, ""))
        ]

    def signature(self, snapshot: Snapshot, who: Who, at: datetime, kind: Kind = Kind.TOOL) -> int:
        """Changes when the list of tools changes, or by `kind` what is readable of resources or prompts."""
        return hash(
            tuple(
                (
                    server.slug,
                    signature(snapshot, who=who, server=server, at=at)
                    if kind is Kind.TOOL
                    else offers.signature(snapshot, who=who, server=server.id, at=at, kind=kind),
                )
                for server in self.servers(snapshot, who)
            )
        )

    def public(self, slug: str, tool: str) -> str:
        return tool if self.server is not None else f"{slug}{SEPARATOR}{tool}"

    def target(self, snapshot: Snapshot, name: str) -> Target:
        """What a client means by `name`. Nobody's for a name of no server: refused, and on record, like any other."""
        if self.server is not None:
            return Target(self.server, self.slug, name, name)
        slug, _, tool = name.partition(SEPARATOR)
        server = snapshot.server_by_slug(slug) if tool else None
        return Target(server.id, slug, tool, name) if server else Target(None, "", name, name)

    def asked_for(self, snapshot: Snapshot, text: str) -> tuple[str, str]:
        """(slug, tool) of a tool named as here, in full (git__git_commit), or as in answers (git/git_commit).

        Raises Invalid for what names no server where that is needed.
        """
        slug, found, tool = text.partition("/")
        if found:
            return slug, tool
        slug, _, tool = text.partition(SEPARATOR)
        own = snapshot.servers.get(self.server) if self.server is not None else None
        if own is not None and (not tool or slug != own.slug or text in own.tools):
            return own.slug, text
        if not tool:
            raise Invalid(
                "request.unknown_tool",
                f"{visible(text, limit=160)} is not something you can ask for; see list_requestable.",
            )
        return slug, tool
