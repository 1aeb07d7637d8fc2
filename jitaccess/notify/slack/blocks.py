"""Parts of Block Kit. What somebody else wrote goes into plain_text, where nothing is a mention, a link or markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

Block = dict[str, Any]

# Of the documentation: characters of a text object, of a header, of a label, of an option; blocks of a message.
TEXT, HEADER, LABEL, OPTION, TITLE = 3000, 150, 75, 75, 24
BLOCKS = 50
OPTIONS = 100
# Slack counts a text after its own escapes.
_WIDTH = {"&": 5, "<": 4, ">": 4}


def plain(text: str, limit: int = TEXT) -> Block:
    """A plain_text object; cut only where the caller allows it by a `limit` below TEXT."""
    return {"type": "plain_text", "text": cut(text, limit), "emoji": False}


def cut(text: str, limit: int) -> str:
    """At most `limit` characters as Slack counts them, with a "…" where some are missing."""
    if _width(text) <= limit:
        return text
    size, kept = 1, []
    for char in text:
        size += _WIDTH.get(char, 1)
        if size > limit:
            break
        kept.append(char)
    return "".join(kept) + "…"


def escaped(text: str) -> str:
    """For places that are always read as markup, such as a notification's text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sections(text: str) -> Iterator[Block]:
    """The whole text, in as many sections as it needs."""
    for piece in _pieces(text, TEXT - 100):
        yield {"type": "section", "text": plain(piece)}


def header(text: str) -> Block:
    return {"type": "header", "text": plain(text, HEADER)}


def context(*texts: str) -> Block:
    return {"type": "context", "elements": [plain(text, 1000) for text in texts]}


def actions(elements: Iterable[Block]) -> Block:
    return {"type": "actions", "elements": list(elements)}


def button(label: str, action: str, value: str, *, style: str = "", confirm: Block | None = None) -> Block:
    """`style`: "primary" or "danger"; none is the default one that a stray Enter presses."""
    made: Block = {"type": "button", "text": plain(label, LABEL), "action_id": action, "value": value}
    if style:
        made["style"] = style
    if confirm:
        made["confirm"] = confirm
    return made


def link(label: str, url: str) -> Block:
    """A button that opens a page. Slack tells of a click on it, too; nothing comes of that."""
    return {"type": "button", "text": plain(label, LABEL), "action_id": "open", "url": url}


def confirm(title: str, text: str, yes: str) -> Block:
    return {"title": plain(title, 100), "text": plain(text, 300), "confirm": plain(yes, 30), "deny": plain("Back", 30)}


def option(label: str, value: str, more: str = "") -> Block:
    made: Block = {"text": plain(label or "?", OPTION), "value": value}
    if more:
        made["description"] = plain(more, OPTION)
    return made


def question(block: str, label: str, element: Block, *, optional: bool = False, hint: str = "") -> Block:
    """An input of a modal; its element's action_id is always "value"."""
    made: Block = {
        "type": "input",
        "block_id": block,
        "label": plain(label, 2000),
        "optional": optional,
        "element": {**element, "action_id": "value"},
    }
    if hint:
        made["hint"] = plain(hint, 2000)
    return made


def long_text(limit: int) -> Block:
    return {"type": "plain_text_input", "multiline": True, "max_length": limit}


def modal(callback: str, title: str, submit: str, blocks: list[Block], private: str) -> Block:
    return {
        "type": "modal",
        "callback_id": callback,
        "title": plain(title, TITLE),
        "submit": plain(submit, TITLE),
        "close": plain("Back", TITLE),
        "private_metadata": private,
        "blocks": blocks,
    }


def _width(text: str) -> int:
    return sum(_WIDTH.get(char, 1) for char in text)


def _pieces(text: str, limit: int) -> Iterator[str]:
    while _width(text) > limit:
        sizes = accumulate(_WIDTH.get(char, 1) for char in text)
        at = next(place for place, size in enumerate(sizes) if size > limit)
        newline = text.rfind("\n", at // 2, at)
        end = newline + 1 if newline > 0 else at
        yield text[:end]
        text = text[end:]
    if text:
        yield text
