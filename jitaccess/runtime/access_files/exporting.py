"""What is there as files that `apply` finds nothing to change with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.files import replace_file
from jitaccess.runtime.access_files.documents import Key, yaml_files
from jitaccess.runtime.access_files.kinds import DESCRIBED, VERSION
from jitaccess.runtime.access_files.state import State

# One file each, in folders; the rest is short enough for one file of a kind.
_FOLDERS = {"role": "roles", "approval-policy": "approval-policies", "server": "servers", "agent": "agents"}
_BLANKS = {"team": "", "max_total": "", "max_uses": 0, "tools": [], "access": []}


class _Dumper(yaml.SafeDumper):
    """Without anchors and aliases, which are not read either."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def documents(state: State) -> Iterator[tuple[Key, str]]:
    """Every document, in the order of keys; bindings of one role, kind and end are in one."""
    bindings: dict[tuple[str, str, str], list[str]] = {}
    for key, value in sorted(state.items()):
        if key.kind == "binding":
            role, origin, subject = key.name.split(" ", 2)
            bindings.setdefault((role, origin, value["until"]), []).append(subject)
        elif key.kind in {"role", "approval-policy"}:
            if value["document"]:
                yield key, value["document"]
        else:
            yield key, _dump(_document(key, value))
    for (role, origin, until), subjects in bindings.items():
        spec = {"role": role, "as": origin, "to": subjects} | ({"until": until} if until else {})
        yield Key("binding", role), _dump({"kind": "binding", "version": VERSION, "spec": spec})


def as_text(state: State) -> str:
    """All of it as one stream."""
    return "---\n".join(text for _, text in documents(state))


def write(state: State, folder: Path) -> list[Path]:
    """All of it as files under `folder`. Raises Conflict when `apply` would read others there too."""
    texts: dict[Path, list[str]] = {}
    for key, text in documents(state):
        inside = _FOLDERS.get(key.kind)
        path = folder / inside / f"{key.name}.yaml" if inside else folder / f"{key.kind}s.yaml"
        texts.setdefault(path, []).append(text)
    try:
        _ensure_alone(folder, set(texts))
        for path, parts in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, "---\n".join(parts).encode())
    except OSError as error:
        raise Invalid(
            "export.unwritable", f"{error.filename or folder} cannot be written: {error.strerror}."
        ) from error
    return sorted(texts)


def _ensure_alone(folder: Path, ours: set[Path]) -> None:
    if others := sorted(set(yaml_files(folder)) - ours):
        raise Conflict(
            "export.not_empty",
            f"{folder} has files of what is not here any more, such as {others[0].relative_to(folder)}: "
            "remove them, or give a new folder.",
        )


def _document(key: Key, value: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": key.name}
    spec = dict(value)
    if key.kind in DESCRIBED:
        metadata["description"] = spec.pop("description")
    if key.kind == "server":
        spec["tools"] = {name: _tool(tool) for name, tool in value["tools"].items() if tool["pin"] or tool["labels"]}
        spec["requestables"] = [
            {name: part for name, part in one.items() if _BLANKS.get(name) != part} for one in value["requestables"]
        ]
    return {"kind": key.kind, "version": VERSION, "metadata": metadata, "spec": spec}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """With its pin: applied elsewhere, the class is that of this definition only."""
    reviewed = {"access": tool["access"], "pin": tool["pin"]} if tool["pin"] else {}
    return reviewed | ({"labels": tool["labels"]} if tool["labels"] or not reviewed else {})


def _dump(document: dict[str, Any]) -> str:
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    if any(end in text for end in "\x85\u2028\u2029"):
        # Line ends to YAML 1.1, which folds them where they stand as they are.
        return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=110)
    return text
