"""Text written by models, users and upstream servers, made inert: nothing in it can hide, reorder or act."""

from __future__ import annotations

import re
from unicodedata import category, normalize

# Cn (unassigned) too: it holds the noncharacters and the reserved default-ignorable ranges.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Invisible, though Unicode files them as letters, marks or symbols: Default_Ignorable_Code_Point, and the
# blank Braille cell, a usual filler for "empty" names.
_INVISIBLE = frozenset(
    chr(point)
    for block in (
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        range(0x180B, 0x1810),
        range(0xFE00, 0xFE10),
        range(0xE0000, 0xE1000),
    )
    for point in block
)
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# Letters of other scripts that look like Latin ones, for regular expressions (Unicode Technical Standard 39).
FOREIGN = "\u0400-\u052fαεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"  # noqa: RUF001 - that is what they are for
_IN_LATIN = re.compile(f"(?<=[A-Za-z])[{FOREIGN}]+|[{FOREIGN}]+(?=[A-Za-z])")
# Drawn as a slash, a colon, a dot or a hyphen, and none of them.
_LIKE_PUNCTUATION = frozenset("\u2010\u2011\u2012\u2024\u2044\u2212\u2215\u2236\u29f8")
_LONGEST = len(r"\u{10ffff}")
_EMOJI_STYLE = frozenset("\ufe0e\ufe0f")


def _is_unsafe(char: str, before: str) -> bool:
    if char in _EMOJI_STYLE and category(before or " ") == "So":
        return False  # one selector on a symbol is how phones write emoji; a run of them is smuggling
    return char in _INVISIBLE or category(char) in _UNSAFE_CATEGORIES


def is_blank(text: str) -> bool:
    """Say whether nothing in `text` can be seen: spaces and what `visible` would escape."""
    return all(char.isspace() or _is_unsafe(char, "") for char in text)


def is_slug(text: str, *, limit: int) -> bool:
    """Say whether `text` is a name as agents, roles and servers have: 1 to `limit` of a-z, 0-9 and inner hyphens."""
    return len(text) <= limit and _SLUG.fullmatch(text) is not None


def visible(text: str, *, limit: int, multiline: bool = False) -> str:
    r"""Return `text` safe to store and show: whatever cannot be seen becomes an escape such as \u{202e}.

    Escaped: controls (C0, C1, NUL, ESC), bidi controls, zero-width and other format characters, tags,
    variation selectors, private use, unassigned, lone surrogates, line separators. With `multiline` a newline
    stays and CR LF becomes one. At most `limit` code points (at least 1) come back; a cut text ends with "…".
    Applying it twice changes nothing.
    """
    if multiline:
        text = text.replace("\r\n", "\n")
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    head = text[: limit + 1]  # every character gives at least one, so the rest cannot matter
    if head.isascii() and head.isprintable():
        pieces = list(head)
    else:
        pieces = [
            f"\\u{{{ord(char):x}}}" if _is_unsafe(char, before) and not (multiline and char == "\n") else char
            for before, char in zip(" " + head, head, strict=False)
        ]
    size = sum(map(len, pieces))
    if size <= limit:
        return "".join(pieces)
    while size > limit - 1 and pieces:
        size -= len(pieces.pop())
    return "".join(pieces) + "…"


def fits(text: str, *, limit: int) -> bool:
    """Say whether `visible` would show all of `text`. The length of what it shows does not: a cut may come earlier."""
    return len(text) <= limit and len(visible(text, limit=_LONGEST * limit, multiline=True)) <= limit


def look_alikes(text: str) -> list[str]:
    """The characters that are drawn like others here, each once, as "U+0430": foreign letters inside of Latin words,
    Latin letters, digits and spaces in disguise, and marks that would be one character with the letter before them.
    """
    if text.isascii():
        return []
    found = [char for match in _IN_LATIN.findall(text) for char in match]
    marks = normalize("NFC", text) != text
    for char in text:
        if char.isascii():
            continue
        plain = normalize("NFKC", char)
        disguised = plain != char and len(plain) == 1 and plain.isascii()
        if disguised or char in _LIKE_PUNCTUATION or (marks and category(char) == "Mn"):
            found.append(char)
    return [f"U+{ord(char):04X}" for char in dict.fromkeys(found)]


def has_hidden(text: str) -> bool:
    """Say whether `text` holds anything `visible` would escape, other than newline, CR LF and tab.

    Also true for the joiners of emoji families and Persian text: a flag for a person to look at, no verdict.
    """
    text = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    if text.isascii():
        return not text.isprintable()
    return any(_is_unsafe(char, before) for before, char in zip(" " + text, text, strict=False))


def hidden_in(text: str) -> list[str]:
    """The characters that make `has_hidden` true, each once, in order, as "U+202E"."""
    text = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    found = (char for before, char in zip(" " + text, text, strict=False) if _is_unsafe(char, before))
    return [f"U+{ord(char):04X}" for char in dict.fromkeys(found)]
