"""What Slack's documentation says a message or a view may be; the error it answers with otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ESCAPED = {"&": 5, "<": 4, ">": 4}
_BLOCKS = {"section", "context", "actions", "header", "input"}


def width(text: str) -> int:
    return sum(_ESCAPED.get(char, 1) for char in text)


def wrong_with(blocks: list[dict[str, Any]], *, modal: bool = False) -> str:
    """ "" or what is against the documentation."""
    if len(blocks) > (100 if modal else 50):
        return "too many blocks"
    return next((wrong for block in blocks for wrong in _of_block(block)), "")


def texts_of(value: Any) -> Iterator[dict[str, Any]]:
    """All text objects in a payload."""
    if isinstance(value, dict):
        if value.get("type") in {"plain_text", "mrkdwn"} and "text" in value:
            yield value
        for one in value.values():
            yield from texts_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_of(one)


def _of_block(block: dict[str, Any]) -> Iterator[str]:
    if block.get("type") not in _BLOCKS:
        yield f"unknown block {block.get('type')}"
    for text in texts_of(block):
        if not 1 <= width(text["text"]) <= 3000:
            yield "a text object has 1 to 3000 characters"
    if block["type"] == "header" and width(block["text"]["text"]) > 150:
        yield "a header has 150 characters"
    if block["type"] == "actions" and not 1 <= len(block["elements"]) <= 25:
        yield "actions have 1 to 25 elements"
    if block["type"] == "context" and not 1 <= len(block["elements"]) <= 10:
        yield "a context has 1 to 10 elements"
    elements = [*block.get("elements", ()), *([block["element"]] if "element" in block else [])]
    for element in elements:
        yield from _of_element(element)


def _of_element(element: dict[str, Any]) -> Iterator[str]:
    if element.get("type") == "button":
        if width(element["text"]["text"]) > 75 or len(element.get("value", "")) > 2000:
            yield "a button has 75 characters and a value of 2000"
        confirm = element.get("confirm")
        if confirm and (width(confirm["title"]["text"]) > 100 or width(confirm["text"]["text"]) > 300):
            yield "a confirmation has a title of 100 and a text of 300 characters"
    options = element.get("options")
    if options is not None:
        if not 1 <= len(options) <= 100:
            yield "a select has 1 to 100 options"
        for option in options:
            yield from of_option(option)


def of_option(option: dict[str, Any]) -> Iterator[str]:
    if not 1 <= width(option["text"]["text"]) <= 75 or not 1 <= len(option["value"]) <= 150:
        yield "an option has 1 to 75 characters and a value of 150"
    if width(option.get("description", {}).get("text", "")) > 75:
        yield "a description of an option has 75 characters"


def wrong_view(view: dict[str, Any]) -> str:
    if width(view["title"]["text"]) > 24 or width(view["submit"]["text"]) > 24:
        return "a title has 24 characters"
    if len(view.get("private_metadata", "")) > 3000:
        return "private_metadata has 3000 characters"
    return wrong_with(view["blocks"], modal=True)
