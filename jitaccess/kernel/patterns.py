"""Name patterns: a literal, a glob with `*`, or `^regex$`; code-point exact, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import re2  # type: ignore[import-untyped]  # it ships no types

from .errors import Invalid
from .text import visible

_FullMatch = Callable[[bytes], object]

MAX_PATTERN_LENGTH = 512
_MAX_PROGRAM_BYTES = 1 << 20
# \Q would swallow the closing anchor, \C matches half a character.
_REFUSED_ESCAPES = frozenset("QC")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern, equal by its source. `literal` is the only text it matches, or None."""

    source: str
    literal: str | None
    _fullmatch: _FullMatch | None = field(compare=False, repr=False)
    _is_glob: bool = field(compare=False, repr=False)

    def matches(self, text: str) -> bool:
        """Say whether the whole of `text` matches.

        A regex raises Invalid("pattern.text_invalid") for a text with a lone surrogate: RE2 cannot see it,
        and "no match" would open a pattern that denies.
        """
        if self._fullmatch is None:
            return text == self.literal
        try:
            raw = text.encode("utf-8", "surrogatepass" if self._is_glob else "strict")
        except UnicodeEncodeError:
            raise Invalid("pattern.text_invalid", "The text to match holds a lone surrogate.") from None
        return self._fullmatch(raw) is not None


class PatternSet:
    """Some patterns as one, equal by their sources: matches what any of them matches; an empty set matches nothing."""

    __slots__ = ("_literals", "_others", "sources")

    def __init__(self, sources: Iterable[str]) -> None:
        """Compile `sources`; raises Invalid("pattern.invalid") for the first one that is not a pattern."""
        if isinstance(sources, str):  # a file with `tools: git_*` in place of a list would become single letters
            raise Invalid("pattern.invalid", "A list of patterns is needed, not one text.")
        self.sources = tuple(sources)
        patterns = [compile_pattern(source) for source in self.sources]
        self._literals = frozenset(one.literal for one in patterns if one.literal is not None)
        self._others = tuple(one for one in patterns if one.literal is None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatternSet) and self.sources == other.sources

    def __hash__(self) -> int:
        return hash(self.sources)

    def matches(self, text: str) -> bool:
        """Say whether any pattern matches the whole of `text`. Raises as `Pattern.matches`."""
        return text in self._literals or any(pattern.matches(text) for pattern in self._others)


def compile_pattern(source: str) -> Pattern:
    """Return the compiled `source`: a regex if it starts with `^`, a glob if it holds `*`, else a literal.

    The regex dialect is RE2's; it must end with `$` and always matches the whole text. In a glob `*` is any
    run of characters, newlines included, and nothing else is special. Raises Invalid("pattern.invalid").
    """
    if not isinstance(source, str) or not source:
        raise _invalid(source, "a pattern is a non-empty text")
    if len(source) > MAX_PATTERN_LENGTH:
        raise _invalid(source, f"it is longer than {MAX_PATTERN_LENGTH} characters")
    if not _is_unicode(source):
        raise _invalid(source, "it holds a lone surrogate")
    if source.startswith("^"):
        return Pattern(source, None, _compile_regex(source), _is_glob=False)
    if "*" in source:
        return Pattern(source, None, _compile_glob(source), _is_glob=True)
    return Pattern(source, source, None, _is_glob=False)


def _compile_regex(source: str) -> _FullMatch:
    if not source.endswith("$"):
        raise _invalid(source, "a regex starts with ^ and ends with $")
    if _REFUSED_ESCAPES.intersection(re.findall(r"\\(.)", source, re.DOTALL)):
        raise _invalid(source, r"\Q and \C are not supported")
    # Without its anchors: a closing `$` that was escaped or in brackets becomes an error of RE2's parser.
    return _re2(source, source[1:-1].encode())


def _compile_glob(source: str) -> _FullMatch:
    parts = re.sub(r"\*+", "*", source).split("*")
    # On bytes: UTF-8 never matches across characters, and no text exists that `*` cannot run over.
    body = b".*".join(re2.escape(part.encode()) for part in parts)
    return _re2(source, body, dot_nl=True, encoding=re2.Options.Encoding.LATIN1)


def _re2(source: str, body: bytes, **settings: object) -> _FullMatch:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MAX_PROGRAM_BYTES
    for name, value in settings.items():
        setattr(options, name, value)
    try:
        fullmatch: _FullMatch = re2.compile(body, options).fullmatch
    except re2.error as error:
        reason = error.args[0] if error.args else "unknown"
        raise _invalid(source, reason.decode(errors="replace") if isinstance(reason, bytes) else reason) from None
    return fullmatch


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _invalid(source: object, reason: str) -> Invalid:
    shown = visible(str(source), limit=80)
    return Invalid("pattern.invalid", f'The pattern "{shown}" is not usable: {visible(reason, limit=120)}.')
