"""Tools in files: a class pins the definition that the server offers, as a review does, and never one that changed."""

from __future__ import annotations

from typing import Any

from jitaccess.kernel.text import visible
from jitaccess.runtime.access_files.documents import Key, Problem, Wanted
from jitaccess.runtime.access_files.state import Now


def resolve_tools(wanted: Wanted, there: Now, problems: list[Problem], warnings: list[str]) -> dict[str, Any]:
    """The value of a server with the pins that its classes mean. A tool that was never offered is a problem, unless
    the server was never asked: then it is left for the next time.
    """
    if wanted.key.kind != "server" or "tools" not in wanted.value:
        return wanted.value
    slug, tools = wanted.key.name, {}
    known = there.state.get(Key("server", slug), {}).get("tools", {})
    lines = {mention.name: mention.line for mention in wanted.mentions if mention.kind == "tool"}
    if not known and wanted.value["tools"]:
        text = f"{slug} was never asked for its tools, so none is classified: servers refresh {slug}, then again."
        warnings.append(str(wanted.problem(text)))
        return wanted.value | {"tools": {}}
    for name, tool in wanted.value["tools"].items():
        shown = visible(name, limit=128)
        if name not in known:
            text = f"spec.tools.{shown}: {slug} offers no such tool."
            problems.append(wanted.problem(text, line=lines.get(name, 0)))
            continue
        refusal, warning, tools[name] = _resolved(tool, known[name], there.offered[slug, name])
        if refusal:
            problems.append(wanted.problem(f"spec.tools.{shown}: {refusal}", line=lines.get(name, 0)))
        if warning:
            warnings.append(str(wanted.problem(f"spec.tools.{shown}: {warning}", line=lines.get(name, 0))))
    return wanted.value | {"tools": tools}


def _resolved(tool: dict[str, Any], known: dict[str, Any], offered: str) -> tuple[str, str, dict[str, Any]]:
    """What is wrong with it, what to know about it, and the tool with its pin.

    Pinning what changed since somebody looked would review it for them: that is how a poisoned tool gets in. So it
    takes the very digest, as `servers classify` takes its code.
    """
    access, pin = tool.get("access", known["access"]), tool.get("pin", known["pin"])
    changed = known["pin"] and known["pin"] != offered
    look = "look at it with `jitaccess servers classify`"
    if (access, pin) == (known["access"], known["pin"]):
        return "", f"it changed since its review, and nobody can call it; {look}." if changed and offered else "", tool
    if not offered:
        return "the server does not offer it any more.", "", tool
    if "pin" in tool and pin != offered:
        return f"the server offers another definition, {offered}; {look}.", "", tool
    if "pin" not in tool and changed:
        return f"it changed since its review; {look}, and give its `pin:` here.", "", tool
    if "access" not in tool and known["access"] == "unclassified":
        return "`access:` beside `pin:`, for what was reviewed.", "", tool
    unseen = not known["pin"] and "pin" not in tool
    warning = (
        f"nobody reviewed it here; this pins what the server offers now. To see it first, {look}." if unseen else ""
    )
    return "", warning, {**tool, "access": access, "pin": offered}
