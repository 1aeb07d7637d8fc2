"""What a message says: made from the one card that every channel shows, at the moment it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from django.conf import settings

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.text import visible
from jitaccess.notify.slack import blocks as kit
from jitaccess.notify.slack.blocks import Block
from jitaccess.notify.slack.models import SlackCard
from jitaccess.notify.slack.values import Pressed, Verb
from requests_app import standing
from requests_app.card.card import Card, card_of
from requests_app.card.effects import Effects, without_approval
from requests_app.card.lines import card_lines, stamp
from requests_app.card.status import grant_of, status_of
from requests_app.card.timeline import moments
from requests_app.standing import Seen

CHANNEL = "slack"
_TOO_MUCH = "This is more than one message in Slack can show."
# They stand in the head of the message, or are of no use to people.
_ELSEWHERE = frozenset({"status", "risk", "digest", "page"})
# In lists of several lines under their name; the others are "name: text".
_LONG = frozenset({"asks for", "its rules", "with exactly", "with arguments of", "would add", "why", "sent along"})


@dataclass(frozen=True, slots=True)
class Message:
    """`text` is what a notification shows, escaped: names only, nothing that an agent wrote."""

    text: str
    blocks: tuple[Block, ...] = ()


def message_of(card: SlackCard) -> Message | None:
    """What this message has to say now; None when there is nothing (left) to say. Not inside a transaction."""
    try:
        match card.kind:
            case SlackCard.Kind.CHANNEL:
                return _for_channel(card)
            case SlackCard.Kind.LINE:
                return _line(card)
            case SlackCard.Kind.ENDING:
                return _ending(card)
        return _for_person(card)
    except NotFound:
        return Message("You can no longer see this request.") if card.ts else None


def short(message: Message, url: str) -> Message:
    """Instead of what Slack finds too long: what it is about, and the page."""
    text = f"{_TOO_MUCH} It can be read and decided on its page."
    return Message(message.text, (kit.header(message.text), *kit.sections(text), kit.actions([kit.link("Open", url)])))


def _for_channel(row: SlackCard) -> Message:
    seen = standing.look(row.request)
    card = card_of(seen, None, channel=CHANNEL)
    body = _body(card)
    effects, why = _offered_to_anybody(seen, card, body)
    note = why or ("Whoever may decide can, in their own name." if effects else "")
    return _message(row, card, body, effects, note)


def _offered_to_anybody(seen: Seen, card: Card, body: list[Block]) -> tuple[list[Verb], str]:
    """The buttons of a copy that many read, and why one is missing. Who presses is looked at when they do."""
    if not card.pending or seen.at >= card.progress.open_until:
        return [], ""
    if seen.plan is None:
        return [Verb.DENY], "This request was filed under an older release and cannot be approved."
    incomplete = card.incomplete or (_TOO_MUCH if _is_too_much(body) else "")
    if incomplete:
        return [Verb.DENY], f"{incomplete} It cannot be approved here: open it."
    if CHANNEL not in seen.plan.channels:
        only = " or ".join(sorted(seen.plan.channels))
        return [Verb.DENY], f"This may be approved by {only} only: open it."
    if seen.plan.step_up:
        return [Verb.DENY], "Whoever approves this has to prove once more who they are: open it."
    return [Verb.APPROVE, Verb.DENY], ""


def _for_person(row: SlackCard) -> Message:
    assert row.user
    seen = standing.look_at(row.user, row.request)
    card = card_of(seen, row.user, channel=CHANNEL)
    body = _body(card)
    if _is_too_much(body):
        card = replace(card, effects=without_approval(card.effects, _TOO_MUCH), incomplete=_TOO_MUCH)
    if row.kind == SlackCard.Kind.REQUESTER:
        return _message(row, card, body, [], "")
    effects = card.effects
    return _message(row, card, body, list(_verbs(effects)), _note(effects))


def _verbs(effects: Effects) -> Iterator[Verb]:
    if effects.approve:
        yield Verb.APPROVE
        if effects.less:
            yield Verb.LESS
    if effects.deny:
        yield Verb.DENY
    if effects.changes:
        yield Verb.CHANGES


def _note(effects: Effects) -> str:
    seat = f"You decide in the place of {effects.seat}. " if effects.seat and effects.any else ""
    return seat + (effects.no_approval or effects.why_not)


def _message(row: SlackCard, card: Card, body: list[Block], verbs: list[Verb], note: str) -> Message:
    head = [kit.header(card.title), kit.context(f"{card.status.label} · {card.risk} risk · {stamp(card.asked_at)}")]
    if len(head) + len(body) + 2 > kit.BLOCKS:
        body = [*body[: kit.BLOCKS - 5], *kit.sections(f"… {_TOO_MUCH}")]
    tail = [kit.context(note)] if note else []
    buttons = [_button(verb, row, card) for verb in verbs]
    tail.append(kit.actions([*buttons, kit.link("Open", card.url)]))
    return Message(kit.escaped(f"{card.title}: {card.status.label}"), (*head, *body, *tail))


def _button(verb: Verb, row: SlackCard, card: Card) -> Block:
    value = str(Pressed(request=card.request, digest=card.digest, verb=verb, card=row.pk))
    action, effects = f"{verb}", card.effects
    if verb is Verb.APPROVE:
        # In a channel the effect depends on who presses, and is told to them.
        label = effects.approve.label if effects.approve else "Approve"
        sentence = effects.approve.sentence if effects.approve else "Approve, if you are one of its approvers."
        return kit.button(label, action, value, confirm=kit.confirm(card.title, sentence, "Approve"))
    labels = {Verb.LESS: "Approve less…", Verb.DENY: "Deny…", Verb.CHANGES: "Ask for changes…"}
    return kit.button(labels[verb], action, value)


def _body(card: Card) -> list[Block]:
    found: list[Block] = []
    few: list[str] = []
    for name, text in card_lines(card):
        if name in _ELSEWHERE:
            continue
        if name in _LONG or "\n" in text or len(text) > 300:
            found += _few(few)
            found += kit.sections(f"{name.upper()}\n{text}")
            few = []
        else:
            few.append(f"{name.capitalize()}: {text}")
    return [*found, *_few(few)]


def _few(lines: list[str]) -> Iterator[Block]:
    if lines:
        yield from kit.sections("\n".join(lines))


def _is_too_much(body: list[Block]) -> bool:
    return len(body) + 4 > kit.BLOCKS


def _line(row: SlackCard) -> Message | None:
    entry = Entry.objects.filter(uid=row.about).first()
    seen = standing.look(row.request)
    told = moments(seen.request, [entry]) if entry else []
    if not told:
        return None
    one = told[0]
    sentence = visible(f"{one.who} {one.text}".strip(), limit=1000)
    parts = [kit.context(f"{sentence}.")]
    if one.note:
        parts += kit.sections(one.note)
    return Message(kit.escaped(f"{sentence}."), tuple(parts))


def _ending(row: SlackCard) -> Message | None:
    assert row.user
    seen = standing.look_at(row.user, row.request)
    grant = grant_of(seen.request)
    if grant is None:
        return None
    who = f"{seen.request.agent.name} for {seen.request.user}" if seen.request.user else seen.request.agent.name
    live = status_of(seen.request, seen.at).live
    if not live:
        return Message(kit.escaped(f"The access of {who} has ended.")) if row.ts else None
    text = f"The access of {who} ends at {grant.expires_at:%H:%M} UTC."
    link = kit.link("Open", seen.request.url)
    if row.about != ending_key(grant.expires_at.isoformat()):  # of an end that was moved
        text = f"The access of {who} was extended until {grant.expires_at:%Y-%m-%d %H:%M} UTC."
        return Message(kit.escaped(text), (*kit.sections(text), kit.actions([link])))
    value = str(Pressed(request=seen.request.pk, digest=seen.request.digest, verb=Verb.EXTEND, card=row.pk))
    things = ", ".join(seen.request.tool_labels[:10])
    buttons = [kit.button("Extend…", Verb.EXTEND.value, value), link]
    return Message(kit.escaped(text), (*kit.sections(f"{text}\n{visible(things, limit=500)}"), kit.actions(buttons)))


def ending_key(end: str) -> str:
    """How an ENDING names the end that it warns of."""
    return end[:36]


def page_url(request: object) -> str:
    return f"{settings.PUBLIC_URL}/requests/{request}/"


def may_approve_here(user: User, request: Seen) -> bool:
    """Whether a message shows `user` everything they would approve, so that it may be approved from one."""
    card = card_of(request, user, channel=CHANNEL)
    return not card.incomplete and not _is_too_much(_body(card))
