"""What is saved as policies and roles, in the one form from which both the documents and the model are made."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.cast import policy_document

REVIEWERS: dict[str, Any] = {"name": "reviewers", "people": ["team:reviewers"], "quorum": 1}
CARL: dict[str, Any] = {"name": "security", "people": ["user:carl"], "quorum": 1}
PAIR: dict[str, Any] = {"name": "pair", "people": ["user:carl", "user:dora"], "quorum": 1}


def _rule(*stages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": "all", "stages": [{"groups": groups} for groups in stages], **more}


# Rules of one approval policy each. In `escalate`, times are told in minutes.
POLICIES: list[list[dict[str, Any]]] = [
    [_rule([REVIEWERS])],
    [_rule([{**REVIEWERS, "quorum": 2}], deny_threshold=2)],
    [_rule([REVIEWERS], [CARL])],
    [_rule([REVIEWERS, PAIR], cool_down="15m")],
    [
        _rule(
            [{**REVIEWERS, "quorum": 2}],
            channels=["web"],
            reminders=["15m"],
            escalate=[{"after": "30m", "groups": [CARL]}],
        )
    ],
    [_rule([{"name": "one", "people": ["user:anna"], "quorum": 1}], fallback=PAIR)],
    [{"name": "short", "when": "request.minutes <= 10", "auto_approve": True}, _rule([REVIEWERS])],
    [_rule([{**REVIEWERS, "quorum": 3}], [{"name": "again", "people": ["team:reviewers"], "quorum": 1}])],
]
# Of the role that can be asked for: tools it allows, tools it denies.
ROLES: list[tuple[list[str], list[str]]] = [
    (["git_commit"], []),
    (["git_commit", "git_add"], []),
    (["git_add"], []),
    (["git_commit", "git_reset"], ["git_add"]),
]


def policy_text(number: int) -> str:
    return policy_document(rules=json.dumps(POLICIES[number]))


def role_text(number: int, version: int) -> str:
    """The same again would be no new version; so each says which it is."""
    allow, deny = ROLES[number]
    spec: dict[str, Any] = {"allow": [{"servers": ["git"], "tools": allow}]}
    if deny:
        spec["deny"] = [{"servers": ["git"], "tools": deny}]
    spec["request"] = {"max_duration": "2h", "approval": "review"}
    metadata = {"name": "writer", "description": f"version {version}"}
    return yaml.safe_dump({"kind": "role", "version": "v1", "metadata": metadata, "spec": spec})
