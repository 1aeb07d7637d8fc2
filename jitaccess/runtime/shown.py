"""Requests, grants and agents as people read them in a terminal, made from the documents of the REST API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.text import visible
from jitaccess.runtime.references import shortened
from jitaccess.runtime.screen import Column, Screen, cut

Data = dict[str, Any]
_STYLES = {
    "pending": "yellow", "active": "green", "approved": "green", "scheduled": "cyan", "enabled": "green",
    "denied": "red", "revoked": "red", "invalidated": "red", "disabled": "red", "locked": "red",
}  # fmt: skip
_REQUESTS = (
    Column("ID"),
    Column("STATE", styles=_STYLES),
    Column("AGENT", least=8),
    Column("WHAT", least=14),
    Column("FOR", spare=True),
    Column("FILED", spare=True),
    Column("LEFT"),
)
_GRANTS = (
    Column("ID"),
    Column("STATE", styles=_STYLES),
    Column("AGENT", least=8),
    Column("WHAT", least=14),
    Column("CALLS", spare=True),
    Column("LEFT"),
)
_AGENTS = (
    Column("NAME", least=8),
    Column("STATE", styles=_STYLES),
    Column("OWNER", least=6),
    Column("TEAM", least=6),
    Column("DESCRIPTION", least=12, spare=True),
)
_TOKENS = (
    Column("ID"),
    Column("FOR", least=6),
    Column("ISSUED BY", least=6),
    Column("ISSUED", spare=True),
    Column("LEFT"),
)
_NOTES = ("reason", "why", "text", "note", "detail", "message")


def requests(screen: Screen, rows: Sequence[Data], at: datetime, *, more: bool) -> None:
    """A list of them."""
    short = shortened(row["request_id"] for row in rows)
    screen.table(
        _REQUESTS,
        [
            (
                short[row["request_id"]],
                state_of(row),
                who(row),
                what(row),
                length(row),
                ago(row.get("created_at"), at),
                left(row, at),
            )
            for row in rows
        ],
        empty="No requests.",
    )
    if more:
        screen.line(screen.style("There are more: --limit.", "dim"))


def grants(screen: Screen, rows: Sequence[Data], at: datetime, *, more: bool) -> None:
    """A list of them."""
    short = shortened(row["grant_id"] for row in rows)
    screen.table(
        _GRANTS,
        [
            (
                short[row["grant_id"]],
                grant_state(row),
                who(row),
                what(row),
                str(row.get("calls_left", "any") if row.get("state") != "ended" else ""),
                until(row.get("expires_at"), at) if row.get("state") != "ended" else "",
            )
            for row in rows
        ],
        empty="No grants.",
    )
    if more:
        screen.line(screen.style("There are more: --limit.", "dim"))


def agents(screen: Screen, rows: Sequence[Data]) -> None:
    """A list of them."""
    cells = [(row["name"], enabled(row), row["owner"], row["team"], row.get("description", "")) for row in rows]
    screen.table(_AGENTS, cells, empty="No agents yet.")


def tokens(screen: Screen, rows: Sequence[Data], at: datetime) -> None:
    """A list of them."""
    short = shortened(row["token_id"] for row in rows)
    cells = [
        (
            short[row["token_id"]],
            row["on_behalf_of"] or "itself",
            row["issued_by"],
            ago(row["created_at"], at),
            until(row["expires_at"], at),
        )
        for row in rows
    ]
    screen.table(_TOKENS, cells, empty="No tokens that are good now.")


def request(screen: Screen, data: Data, at: datetime, *, more: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
    """One of them, whole: nothing is cut, and what cannot be seen is escaped. `more` stands before the reason."""
    _title(screen, f"Request {data['request_id']}", f"{state_of(data)}{_comma(left(data, at))}")
    pairs: list[tuple[str, Iterable[str]]] = [
        ("who", [who(data)]),
        ("what", things(data.get("items") or (), data)),
        ("how long", [_how_long(data)]),
        *more,
        ("why", [f"{data.get('reason', '')}", "(written by the agent, checked by nobody)"]),
    ]
    if data.get("ticket"):
        pairs.append(("ticket", [visible(str(data["ticket"]), limit=1000)]))
    if data.get("context"):
        pairs.append(("context", [inert(data["context"])]))
    pairs.append(("filed", [f"{stamp(data.get('created_at'))} ({ago(data.get('created_at'), at)})"]))
    pairs += _approvals(data)
    if grant := data.get("grant"):
        pairs.append(("grant", [f"{grant['grant_id']}  {grant_state(grant)}{_comma(_grant_left(grant, at))}"]))
    if data.get("digest"):
        pairs.append(("digest", [data["digest"]]))
    pairs.append(("page", [data.get("url", "")]))
    screen.fields(pairs)


def _approvals(data: Data) -> list[tuple[str, Iterable[str]]]:
    pairs: list[tuple[str, Iterable[str]]] = []
    if groups := data.get("approvals"):
        pairs.append(("approval", [f"{one.get('group')}: {one.get('given')} of {one.get('needed')}" for one in groups]))
    if people := data.get("who_can_approve"):
        pairs.append(("may approve", [", ".join(people)]))
    for one in data.get("decisions") or ():
        counts = "" if one.get("counts", True) else " (decided otherwise later)"
        pairs.append(("decision", [f"{one['verdict']} by {one['by']}, {stamp(one['at'])}{counts}"]))
        if one.get("reason"):
            pairs.append(("", [f"  {one['reason']}"]))
    if data.get("decided_by"):
        pairs.append(("closed by", [data["decided_by"]]))
    if data.get("note"):
        pairs.append(("note", [data["note"]]))
    return pairs


def grant(screen: Screen, data: Data, at: datetime) -> None:
    """One of them, whole."""
    _title(screen, f"Grant {data['grant_id']}", f"{grant_state(data)}{_comma(_grant_left(data, at))}")
    pairs: list[tuple[str, Iterable[str]]] = [
        ("who", [who(data)]),
        ("what", data.get("tools") or [""]),
        ("from", [stamp(data.get("starts_at"))]),
        ("until", [stamp(data.get("expires_at"))]),
    ]
    if data.get("calls_left") is not None:
        pairs.append(("calls left", [str(data["calls_left"])]))
    if data.get("ended_at"):
        by = f" by {data['ended_by']}" if data.get("ended_by") else ""
        pairs.append(("ended", [f"{stamp(data['ended_at'])}{by}"]))
    if data.get("note"):
        pairs.append(("note", [data["note"]]))
    pairs.append(("request", [data.get("request_id", "")]))
    screen.fields(pairs)


def timeline(screen: Screen, moments: Sequence[Data], *, calls_cut: bool = False) -> None:
    """What happened, in order, one line each; what was said stands below."""
    screen.line(screen.style("Timeline, in UTC", "bold"))
    columns = (Column("AT"), Column("WHO", least=8), Column("WHAT", least=20))
    rows = []
    for one in moments:
        actor = " for ".join(name for name in (one.get("agent"), one.get("user")) if name) or "-"
        happened = str(one["event"]).replace(".", " ").replace("_", " ")
        thing = "/".join(name for name in (one.get("server"), one.get("tool")) if name)
        data = one.get("data") or {}
        said = next((str(data[name]) for name in _NOTES if data.get(name)), "")
        told = " ".join(part for part in (happened, thing, f"({one['outcome']})" if one.get("outcome") else "") if part)
        rows.append((f"{_moment(one['at']):%m-%d %H:%M:%S}", actor, f"{told}: {said}" if said else told))
    screen.table(columns, rows, empty="Nothing yet.")
    if calls_cut:
        screen.line(screen.style("Only the latest calls are shown.", "dim"))


def things(items: Iterable[Data], data: Data) -> list[str]:
    """What is asked for, every member of it: what has no line of its own is shown as JSON."""
    lines, named, given = [], set(), list(items)
    for item in given:
        rest = {name: value for name, value in item.items() if name not in {"kind", "server_id", "role_id", "pin"}}
        exact = _exact(rest)
        for label, text in _named(rest):
            named |= {label, f"{label}#{exact}"}
            lines.append(visible(text, limit=1000))
        for name, value in rest.items():
            lines += [f"  {visible(name, limit=100)}:", *(f"    {line}" for line in inert(value).split("\n"))]
    # What the API's items do not have, and stored ones do.
    if not any("database" in item for item in given):
        lines += [visible(str(label), limit=1000) for label in data.get("tools") or () if label not in named]
    if not any("arguments" in item for item in given):
        for call in data.get("calls") or ():
            told = inert(call["arguments"]).split("\n")
            lines += [visible(f"  arguments of {call['tool']}:", limit=1000), *(f"    {line}" for line in told)]
    return lines


def _exact(rest: Data) -> str:
    """Leaves of exact arguments what they are; the start of their digest, by which the call is labelled."""
    arguments = rest.get("arguments")
    if not isinstance(arguments, dict) or arguments.get("mode") != "exact" or "value" not in arguments:
        return ""
    rest["exactly these arguments"] = arguments["value"]
    del rest["arguments"]
    return str(arguments.get("digest", "")).rpartition(":")[2][:8]


def _named(rest: Data) -> list[tuple[str, str]]:
    """Takes out of an item what has a line of its own: (label, line)."""
    if "role" in rest:
        role = rest.pop("role")
        return [(f"role:{role}", f"role {role}, version {rest.pop('version', '?')}")]
    if "database" in rest:
        names, privileges = ", ".join(rest.pop("objects", ())), ", ".join(rest.pop("privileges", ()))
        return [("", f"database {rest.pop('database')}: {privileges} on {names}")]
    if "tool" in rest:
        rest["tools"] = [{"name": rest.pop("tool"), "access": rest.pop("access", "")}]
    if "tools" not in rest:
        return []
    server, tools = rest.pop("server", ""), rest.pop("tools")
    labels = [(f"{server}/{tool['name']}", str(tool.get("access", ""))) for tool in tools]
    return [(label, f"{label}  {access}".rstrip()) for label, access in labels]


def inert(value: object) -> str:
    """JSON with every member, over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _title(screen: Screen, name: str, rest: str) -> None:
    screen.line(f"{screen.style(visible(name, limit=100), 'bold')}  {visible(rest, limit=100)}")


def one_line(text: str, width: int) -> str:
    """Inert, and cut where it has to be."""
    return cut(visible(text, limit=1000), width)


def progress(data: Data) -> str:
    """How far approval is, in a line."""
    parts = [f"{one.get('group')}: {one.get('given')} of {one.get('needed')}" for one in data.get("approvals") or ()]
    return ", ".join(parts)


def state_of(data: Data) -> str:
    """Of a request; an approved one is what its grant is."""
    held = data.get("grant")
    return grant_state(held) if held else visible(str(data.get("status", "")), limit=40)


def grant_state(data: Data) -> str:
    state = data.get("state")
    said = str(data.get("end_reason") or state) if state == "ended" else str(state or "")
    return visible(said.replace("_", " "), limit=40)


def enabled(row: Data) -> str:
    return "enabled" if row.get("enabled") else "disabled"


def who(data: Data) -> str:
    user = data.get("on_behalf_of")
    return f"{data.get('agent', '')} for {user}" if user else str(data.get("agent", ""))


def what(data: Data) -> str:
    return ", ".join(map(str, data.get("tools") or ()))


def length(data: Data) -> str:
    return format_duration(int(data.get("minutes") or 0) * 60)


def _how_long(data: Data) -> str:
    uses = data.get("max_uses")
    calls = "any number of calls" if uses is None else f"{uses} call{'s' * (uses != 1)}"
    start = f", from {stamp(data['starts_at'])}" if data.get("starts_at") else ""
    return f"{length(data)}, {calls}{start}"


def left(data: Data, at: datetime) -> str:
    """Until it expires, pending or granted; "" when it is over."""
    if held := data.get("grant"):
        return _grant_left(held, at)
    return until(data.get("pending_until"), at) if data.get("status") == "pending" else ""


def _grant_left(data: Data, at: datetime) -> str:
    return until(data.get("expires_at"), at) if data.get("state") != "ended" else ""


def until(text: object, at: datetime) -> str:
    """Such as "24 min"."""
    return _coarse((_moment(text) - at).total_seconds()) if text else ""


def ago(text: object, at: datetime) -> str:
    """Such as "3 min ago"."""
    return f"{_coarse((at - _moment(text)).total_seconds())} ago" if text else ""


def stamp(text: object) -> str:
    """To the second, in UTC."""
    return f"{_moment(text):%Y-%m-%d %H:%M:%S} UTC" if text else ""


def _moment(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


def _coarse(seconds: float) -> str:
    """The two largest units at most."""
    whole = max(int(seconds), 0)
    for size in (86_400, 3_600, 60):
        if whole >= size * (10 if size < 86_400 else 2):
            whole -= whole % size
            break
    words = format_duration(whole).split()
    return " ".join(words[:4])


def _comma(text: str) -> str:
    return f", {text} left" if text else ""
