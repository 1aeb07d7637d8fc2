"""The card as plain text, line by line in its order: for e-mail, terminals and where nothing better is shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from jitaccess.kernel.durations import format_duration
from requests_app.card.adds import Adds, Reach
from requests_app.card.card import Card
from requests_app.card.items import Block, Thing

Lines = list[tuple[str, str]]


def card_lines(card: Card) -> Lines:
    """(name, text) pairs; a text may have several lines. Everything that is asked for is in it, whole."""
    found = [*_who(card), ("risk", card.risk)]
    for block in card.blocks:
        found += _block(block)
    if card.adds:
        found += _adds(card.adds)
    found += [*_length(card), *_unusual(card), *_why(card), *_progress(card)]
    return [(name, text) for name, text in found if text]


def stamp(moment: datetime | None) -> str:
    """To the minute, in UTC; "" for none."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""


def _who(card: Card) -> Iterator[tuple[str, str]]:
    who = card.who
    yield "who", str(who)
    yield "owner", f"{who.owner}, team {who.team}"
    yield "description", who.description
    yield "client", who.client
    yield "token by", who.issued_by
    yield "filed by", who.filed_by
    if not who.enabled:
        yield "note", "This agent is disabled."


def _block(block: Block) -> Iterator[tuple[str, str]]:
    names = "\n".join(_thing(block, one) for one in block.things)
    match block.kind:
        case "role":
            yield "asks for", f"the role {block.where}, version {block.version}"
            yield "its rules", block.document
        case "database":
            yield "asks for", f"{block.privileges} in the database {block.where}:\n{names}"
        case "call":
            yield "asks for", f"one exact call of {names}"
            yield "with exactly", block.arguments.isolated if block.arguments else ""
        case _:
            yield "asks for", names
            yield "with arguments of", block.arguments.isolated if block.arguments else ""
    for one in block.things:
        yield f"about {one.name}", "\n".join(part for part in (one.rest or one.description, one.obstacle) if part)
    for one in block.things:
        yield "asked before", f"{one.name}: {one.history}" if one.history else ""


def _thing(block: Block, thing: Thing) -> str:
    if block.kind not in {"tools", "call"}:
        return thing.name
    return f"{block.where}/{thing.name} ({thing.access})" if thing.access else f"{block.where}/{thing.name}"


def _adds(adds: Adds) -> Iterator[tuple[str, str]]:
    yield "would add", "\n".join(map(_reach, adds.new)) or ("" if adds.unknown else "nothing")
    yield "allowed already", "\n".join(map(_reach, adds.already))
    yield "stays refused", "\n".join(map(_reach, adds.blocked))
    yield "note", adds.unknown


def _reach(reach: Reach) -> str:
    until = f", until {stamp(reach.until)}" if reach.until else ""
    how = f" {reach.how}" if reach.how else ""
    return f"{reach.server}/{reach.tool} ({reach.access}){how}{until}"


def _length(card: Card) -> Iterator[tuple[str, str]]:
    length = card.length
    calls = (
        "any number of calls" if length.max_uses is None else f"{length.max_uses} call{'s' * (length.max_uses != 1)}"
    )
    yield "for", f"{format_duration(length.seconds)}, {calls}{' of each' if length.each and length.max_uses else ''}"
    if length.new_end:
        yield "more time", f"from {stamp(length.old_end)} to {stamp(length.new_end)}"
    yield "starts", stamp(length.starts_at)
    yield "over by", stamp(length.not_after)
    if grant := length.grant:
        left = f", {grant.calls_left} calls left" if grant.calls_left is not None else ""
        yield "given", f"from {stamp(grant.starts_at)} to {stamp(grant.ended_at or grant.expires_at)}{left}"


def _unusual(card: Card) -> Iterator[tuple[str, str]]:
    one = card.unusual
    yield "how unusual", one.sentence
    yield "used before", f"{one.use}{f' The last time was {stamp(one.last_used)}.' if one.last_used else ''}"
    for used in one.used if len(one.used) > 1 else ():
        yield "used before", f"{used.label}: {used.said}{f', last on {stamp(used.last)}' if used.last else ''}"


def _why(card: Card) -> Iterator[tuple[str, str]]:
    why = card.why
    by = "in the agent's words" if why.written_by == "the agent" else f"in the words of {why.written_by}"
    yield "why", f"({by}, checked by nobody)\n{why.text}"
    yield "ticket", why.ticket
    yield "sent along", why.context.isolated if why.context else ""
    if why.changes:
        yield "changes", f"{why.changes.by} asked for: {why.changes.note}"


def _progress(card: Card) -> Iterator[tuple[str, str]]:
    progress = card.progress
    yield "status", card.status.label
    for stage in progress.stages:
        for group in stage.groups:
            given = f"{group.name}: {len(group.approved)} of {group.quorum}"
            asked = f" (can decide: {', '.join(group.can)})" if group.missing and group.can and card.pending else ""
            yield f"stage {stage.number}" if len(progress.stages) > 1 else "approvals", f"{given}{asked}"
    for one in progress.decisions:
        yield "decided", f"{one.who} {one.verdict}{f', but only {one.less}' if one.less else ''}, {stamp(one.at)}"
    yield "open until", stamp(progress.open_until) if card.pending else ""
    yield "note", progress.ending
    yield "digest", card.digest
    yield "page", card.url
