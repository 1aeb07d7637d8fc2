"""A slow and obvious reader of the JSON that the gateway takes (RFC 8259 narrowed by RFC 7493): one character after the
other, every fault written down. It shares no line with the codec that it judges.
"""

from __future__ import annotations

from typing import Any

DEPTH = 64
LARGEST = 2**53 - 1
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class NotJson(Exception):
    """The text breaks the grammar here; nothing after it means anything."""


class Reader:
    """Reads one text; `faults` are the codes of all that is wrong with it, besides its grammar."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.faults = text, 0, set[str]()

    def whole(self) -> Any:
        self.space()
        value = self.value(0)
        self.space()
        if self.place != len(self.text):
            raise NotJson
        if not isinstance(value, dict):
            self.faults.add("json.not_object")
        return value

    def peek(self) -> str:
        return self.text[self.place] if self.place < len(self.text) else ""

    def take(self, wanted: str) -> None:
        if not self.text.startswith(wanted, self.place):
            raise NotJson
        self.place += len(wanted)

    def space(self) -> None:
        while self.peek() and self.peek() in " \t\r\n":
            self.place += 1

    def value(self, depth: int) -> Any:
        for word, meant in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.place):
                self.take(word)
                return meant
        if self.peek() == '"':
            return self.string()
        if self.peek() == "{":
            return self.object(depth + 1)
        if self.peek() == "[":
            return self.array(depth + 1)
        return self.number()

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.enter("{", depth)
        if self.ends("}"):
            return found
        while True:
            name = self.string()
            if name in found:
                self.faults.add("json.duplicate_member")
            if "\0" in name:
                self.faults.add("json.nul_in_name")
            self.space()
            self.take(":")
            self.space()
            found[name] = self.value(depth)
            if self.ends("}"):
                return found
            self.take(",")
            self.space()

    def array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        self.enter("[", depth)
        if self.ends("]"):
            return found
        while True:
            found.append(self.value(depth))
            if self.ends("]"):
                return found
            self.take(",")
            self.space()

    def enter(self, opening: str, depth: int) -> None:
        self.take(opening)
        if depth > DEPTH:
            self.faults.add("json.depth")
        self.space()

    def ends(self, closing: str) -> bool:
        self.space()
        if self.peek() != closing:
            return False
        self.place += 1
        return True

    def string(self) -> str:
        self.take('"')
        units: list[int] = []  # of UTF-16, because an escape is one of those
        while self.peek() != '"':
            char = self.peek()
            if char < " ":  # a control character, or the end
                raise NotJson
            self.place += 1
            raw = self.escape() if char == "\\" else char
            encoded = raw.encode("utf-16-be", "surrogatepass")
            units += [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]
        self.take('"')
        text = b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", "surrogatepass")
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.faults.add("json.surrogate")
        return text

    def escape(self) -> str:
        char = self.peek()
        if char and char in ESCAPES:
            self.place += 1
            return ESCAPES[char]
        self.take("u")
        digits = self.text[self.place : self.place + 4]
        if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise NotJson
        self.place += 4
        return chr(int(digits, 16))

    def digits(self) -> str:
        start = self.place
        while self.peek() and self.peek() in "0123456789":
            self.place += 1
        if start == self.place:
            raise NotJson
        return self.text[start : self.place]

    def number(self) -> int | float:
        start = self.place
        if self.peek() == "-":
            self.place += 1
        digits = self.digits()
        if digits.startswith("0") and digits != "0":
            raise NotJson
        whole = True
        if self.peek() == ".":
            whole, self.place = False, self.place + 1
            self.digits()
        if self.peek() and self.peek() in "eE":
            whole, self.place = False, self.place + 1
            if self.peek() and self.peek() in "+-":
                self.place += 1
            self.digits()
        written = self.text[start : self.place]
        if whole:
            if len(written) > 20 or abs(int(written)) > LARGEST:
                self.faults.add("json.number_range")
                return 0
            return int(written)
        value = float(written)
        if value in (float("inf"), float("-inf")):
            self.faults.add("json.number_range")
        return value


def read(body: bytes) -> tuple[Any, set[str]]:
    """(the value, no codes), or (None, the codes of which a refusal has to give one)."""
    if body.startswith(b"\xef\xbb\xbf") or b"\0" in body:
        return None, {"json.encoding"}
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None, {"json.encoding"}
    if text.lstrip(" \t\r\n").startswith("["):
        return None, {"json.batch"}
    reader = Reader(text)
    try:
        value = reader.whole()
    except NotJson:
        deep = {"json.depth"} if text.count("{") + text.count("[") > DEPTH else set()
        # What broke off may have been a number too large already.
        return None, reader.faults | deep | {"json.invalid", "json.number_range"}
    return (None, reader.faults) if reader.faults else (value, set())
