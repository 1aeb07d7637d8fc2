"""JSON Schemas of the documents, for editors: made from the shapes; `apply` reads with its own, stricter readers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jitaccess.runtime.access_files.kinds import BINDING, KINDS, SPECS, VERSION, metadata_of
from jitaccess.runtime.access_files.policy_shapes import POLICY_METADATA, POLICY_SPEC, ROLE_METADATA, ROLE_SPEC
from jitaccess.runtime.access_files.shapes import Record

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of document."""
    if kind == "binding":
        return _document(kind, BINDING, None)
    if kind == "role":
        return _document(kind, ROLE_SPEC, ROLE_METADATA)
    if kind == "approval-policy":
        return _document(kind, POLICY_SPEC, POLICY_METADATA)
    return _document(kind, SPECS[kind][0], metadata_of(kind))


def published() -> dict[str, str]:
    """Every file of docs/schemas by its name. `document.json` is for files with several kinds in them."""
    schemas = {f"{kind}.json": schema_of(kind) for kind in KINDS}
    schemas["document.json"] = {
        "$schema": _DRAFT,
        "title": "jitaccess document",
        "oneOf": [{"$ref": f"{kind}.json"} for kind in KINDS],
    }
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def _document(kind: str, spec: Record, metadata: Record | None) -> dict[str, Any]:
    properties: dict[str, Any] = {"kind": {"const": kind}, "version": {"const": VERSION}}
    if metadata:
        properties["metadata"] = metadata.schema()
    properties["spec"] = spec.schema()
    return {
        "$schema": _DRAFT,
        "title": f"jitaccess {kind}",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    for name, text in published().items():
        (Path(sys.argv[1]) / name).write_text(text)
