"""Approval policies as tests write them."""

from __future__ import annotations

from datetime import UTC, datetime
from textwrap import indent
from typing import Any

from jitaccess.policy.approval.choose import ItemFacts, RequestFacts
from jitaccess.policy.approval.document import PolicyDocument, parse_policy

HEAD = "kind: approval-policy\nversion: v1\nmetadata: {name: two-person, description: Two people}\nspec:\n  rules:\n"
ANNA = "stages: [{groups: [{name: reviewers, people: [user:anna, user:ben], quorum: 1}]}]"


def text(*rules: str) -> str:
    """A document of these rules; what follows the first line of a rule is indented to fit."""
    return HEAD + "".join("    - " + indent(rule, "      ").lstrip() + "\n" for rule in rules)


def rule(more: str = "", *, name: str = "all", stages: str = ANNA) -> str:
    return "\n".join(filter(None, [f"name: {name}", stages, more]))


def parse(*rules: str, version: int = 1) -> PolicyDocument:
    return parse_policy(text(*rules), version=version)


def facts(*items: ItemFacts, **values: Any) -> RequestFacts:
    wanted = items or (ItemFacts(kind="tools", server="files", tool="read_file", access="read"),)
    about: dict[str, Any] = {
        "agent": "bot",
        "owner": "olga",
        "seconds": 1800,
        "time": datetime(2026, 5, 4, 9, tzinfo=UTC),
    }
    return RequestFacts(**{**about, "items": wanted, **values})
