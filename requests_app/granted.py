"""What a grant holds, of what was asked: approvers may have left things out."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from jitaccess.policy.models import RoleBinding
from requests_app.models import Grant, labels_of


def kept_of(item: dict[str, Any], labels: Collection[str]) -> dict[str, Any]:
    """What an item still gives when only `labels` are left of a request; empty for nothing."""
    if item["kind"] == "tools":
        tools = [tool for tool in item["tools"] if f"{item['server']}/{tool['name']}" in labels]
        return {**item, "tools": tools} if tools else {}
    if item["kind"] == "database":
        objects = [name for name in item["objects"] if f"{item['database']}/{name}" in labels]
        return {**item, "objects": objects} if objects else {}
    return item if labels_of(item)[0] in labels else {}


def granted_items(grant: Grant) -> list[dict[str, Any]]:
    """The items of its request as far as they were granted, by its bindings."""
    free, exact, roles, objects = set(), set(), set(), set()
    for binding in RoleBinding.objects.filter(origin_id=grant.pk):
        arguments = json.loads(binding.arguments) if binding.arguments else {}
        if arguments.get("mode") == "exact":
            exact |= {(tool, arguments["digest"]) for tool in json.loads(binding.tools)}
        else:
            free |= set(json.loads(binding.tools))
        if binding.role_id:
            roles.add(str(binding.role_id))
        if binding.privileges:
            held = json.loads(binding.privileges)
            objects |= {(held["database"], name) for name in held["objects"]}
    found = []
    for item in grant.request.parsed_items:
        match item["kind"]:
            case "role":
                left = item if item["role_id"] in roles else {}
            case "database":
                left = kept_of(
                    item, [f"{item['database']}/{name}" for base, name in objects if base == item["database"]]
                )
            case "call":
                left = item if (item["tools"][0]["id"], item["arguments"]["digest"]) in exact else {}
            case _:
                tools = [tool for tool in item["tools"] if tool["id"] in free]
                left = {**item, "tools": tools} if tools else {}
        if left:
            found.append(left)
    return found
