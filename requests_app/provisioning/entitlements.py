"""What the items of a request are called on targets, and which targets they concern. Pure but for the rows' types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jitaccess.kernel.canonical import digest
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import visible

KINDS = ("server", "role", "database")


@dataclass(frozen=True, slots=True)
class Named:
    """One entitlement of an item: what a target's match is asked about (`kind` and `of`), its whole `name`, and the
    id of the server or role it is `about`.
    """

    kind: str
    of: str
    name: str
    about: UUID | None = None


class Match:
    """Which items a target is for: one pattern a line, "server:git-*", "role:report-writer", "database:shop"."""

    def __init__(self, text: str) -> None:
        """Raises Invalid("provisioning.match") with the line."""
        sources: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for number, line in enumerate(text.splitlines(), 1):
            word = line.strip()
            if not word:
                continue
            kind, colon, pattern = word.partition(":")
            if not colon or kind not in sources:
                shown = visible(word, limit=80)
                expected = ", ".join(f"{known}:PATTERN" for known in KINDS)
                raise Invalid("provisioning.match", f'Line {number}, "{shown}": expected one of {expected}.')
            sources[kind].append(pattern.strip())
        try:
            self._patterns = {kind: PatternSet(patterns) for kind, patterns in sources.items()}
        except Invalid as error:
            raise Invalid("provisioning.match", error.detail) from None

    def takes(self, named: Named) -> bool:
        return self._patterns[named.kind].matches(named.of)


def entitlements_of(items: Sequence[Mapping[str, Any]]) -> Iterator[Named]:
    """One for each tool, call, role and privilege: what two grants have in common must have one name.

    A tool under a schema of arguments, and one exact call, are other entitlements than the tool. Raises Invalid
    ("provisioning.item") for an item of a kind that is not known here: it must not go unprovisioned silently.
    """
    for item in items:
        kind = item.get("kind", "tools")
        if kind in {"tools", "call"}:
            server = str(item["server"])
            suffix = _arguments(item.get("arguments"))
            for tool in item["tools"]:
                yield Named(
                    "server",
                    server,
                    f"{kind.removesuffix('s')}:{server}/{tool['name']}{suffix}",
                    _id(item, "server_id"),
                )
        elif kind == "role":
            yield Named("role", str(item["role"]), f"role:{item['role']}", _id(item, "role_id"))
        elif kind == "database":
            for privilege in item["privileges"]:
                for thing in item["objects"]:
                    name = f"database:{item['database']}/{privilege}/{thing}"
                    yield Named("database", str(item["database"]), name)
        else:
            raise Invalid("provisioning.item", f'Items of the kind "{visible(str(kind), limit=40)}" are unknown.')


def _id(item: Mapping[str, Any], name: str) -> UUID | None:
    return UUID(str(item[name])) if item.get(name) else None


def _arguments(constraint: Mapping[str, Any] | None) -> str:
    if not constraint or constraint.get("mode") == "any":
        return ""
    if constraint.get("mode") == "exact":
        return f"/{constraint['digest']}"
    return f"/{digest(constraint['schema'], domain='jitaccess-arguments-schema-v1')}"
