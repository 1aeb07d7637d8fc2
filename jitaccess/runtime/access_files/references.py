"""What names what: everything that a file mentions has to exist, once all files are applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jitaccess.catalog.http_servers import checked_url
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import visible
from jitaccess.policy.approval.document import parse_policy
from jitaccess.policy.engine.roles import parse_role
from jitaccess.runtime.access_files.documents import Key, Problem, Wanted, policy_mentions, role_mentions
from jitaccess.runtime.access_files.kinds import EVERY_TEAM
from jitaccess.runtime.access_files.shapes import Mention, minutes_of
from jitaccess.runtime.access_files.state import Now, State

LONGEST_LIST = 500  # characters of a requestable's tools, as the table holds them


def problems(wanted: Iterable[Wanted], there: Now, after: State) -> tuple[list[Problem], list[Problem]]:
    """Unknown names and what a shape alone cannot see, with their lines; and the same of what is so already."""
    found: list[Problem] = []
    known: list[Problem] = []
    for one in wanted:
        so_already = one.key in there.state and after.get(one.key) == there.state[one.key]
        (known if so_already else found).extend(_of(one, there, after))
    return found, known


def _of(one: Wanted, there: Now, after: State) -> list[Problem]:
    found = [
        one.problem(text, line=mention.line) for mention in one.mentions if (text := _lacks(mention, there, after))
    ]
    if one.key.kind == "server":
        found += [one.problem(text) for text in _server(one, there)]
    return found


def names(user: Key, value: dict[str, Any], key: Key) -> bool:
    """Whether the thing `user` cannot be without `key`."""
    kind, name = key
    if user.kind == "binding":
        role, _, subject = user.name.split(" ", 2)
        return (kind == "role" and name == role) or subject == f"{kind}:{name}"
    if user.kind == "agent":
        return kind == "team" and value["team"] == name
    if user.kind == "server":
        asked = value["requestables"]
        if kind == "approval-policy":
            return any(one["approval"] == name for one in asked)
        inside = value["access"] != EVERY_TEAM and name in value["access"]
        return kind == "team" and (value["owner_team"] == name or inside or any(one["team"] == name for one in asked))
    return any((mention.kind, mention.name) == key for mention in mentions_of(user, value))


def mentions_of(key: Key, value: dict[str, Any]) -> list[Mention]:
    """Of a role or an approval policy that is there; none of one that cannot be read any more."""
    try:
        if key.kind == "role":
            return role_mentions(parse_role(value["document"]))
        return policy_mentions(parse_policy(value["document"])) if key.kind == "approval-policy" else []
    except Invalid:
        return []


def _lacks(mention: Mention, there: Now, after: State) -> str:
    shown, where = visible(mention.name, limit=80), mention.path
    if mention.kind == "person":
        cure = "People come here by signing in, never by files."
        return "" if mention.name in there.people else f"{where}: there is no person named {shown}. {cure}"
    if mention.kind == "schedule":
        return "" if mention.name in there.schedules else f"{where}: there is no on-call schedule named {shown}."
    if mention.kind == "tool" or Key(mention.kind, mention.name) in after:
        return ""
    return f"{where}: there is no {mention.kind} named {shown}, here or in the files."


def _server(one: Wanted, there: Now) -> Iterable[str]:
    before = there.state.get(one.key, {})
    url = one.value.get("url")
    if url and before and "url" not in before:
        yield "spec.url: this server is a program, which only the operator's file describes."
    elif url and url != before.get("url"):
        try:
            checked = checked_url(url)
            if checked != url:
                yield f"spec.url: write it as {checked}"
        except JitAccessError as error:
            yield f"spec.url: {error.detail}"
    elif not url and "url" not in before:
        yield from (f"spec.{key}: only beside `url:`." for key in ("era", "shared") if key in one.value)
    for number, asked in enumerate(one.value.get("requestables", ()), start=1):
        yield from (f"a requestable ({number} in order): {text}" for text in _requestable(asked))


def _requestable(asked: dict[str, Any]) -> Iterable[str]:
    if not asked["tools"] and not asked["access"]:
        yield "`tools:` or `access:`; as it is, nothing could be asked for."
    try:
        PatternSet(asked["tools"])
    except Invalid as error:
        yield f"tools: {error.detail}"
    if len(", ".join(asked["tools"])) > LONGEST_LIST:
        yield f"tools: more than {LONGEST_LIST} characters in all; write two of them."
    if asked["max_total"] and minutes_of(asked["max_total"]) < minutes_of(asked["max_duration"]):
        yield f"max_total: at least the max_duration, {asked['max_duration']}."
