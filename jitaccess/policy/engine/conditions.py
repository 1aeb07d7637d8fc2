"""Conditions: CEL (Common Expression Language), checked and compiled when saved, bounded when evaluated.

The one importer of the `cel` library. What it leaves open is closed here: names that nobody defines, functions that do
not exist, `matches` with a regex of anybody's making (the library compiles it anew each time, which can take seconds),
and comprehensions inside comprehensions inside comprehensions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, NoReturn

import re2  # type: ignore[import-untyped]  # it ships no types

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

MAX_SOURCE = 2000
MAX_BRACKETS = 16
# Of one value of the context; over it the condition cannot be evaluated, for a shortened list would be another one.
MAX_ITEMS = 100
MAX_TEXT = 16_000
# Of all values together: comparing long texts in a comprehension adds up.
MAX_TOTAL_TEXT, MAX_VALUES, MAX_DEPTH = 64_000, 2_000, 16
MAX_COMPREHENSIONS = 4
MAX_PLUS = 16
# Where one comprehension is inside another, all of it runs 10,000 times.
MAX_NESTED_WORDS, MAX_NESTED_PLUS = 100, 2

_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_FUNCTIONS = frozenset(
    {"bool", "bytes", "contains", "double", "duration", "dyn", "endsWith", "has", "int", "matches", "size"}
    | {"startsWith", "string", "timestamp", "uint"}
    | {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds"}
    | {"getMinutes", "getMonth", "getSeconds"}
)
_CONSTANTS = frozenset({"true", "false", "null", "in"})
# As long as the name it stands for, so that positions in errors stay what they are. No condition can contain it.
_MATCHES = "_match_"
_TOKENS = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>[bB]?(?:[rR](?:'''[\s\S]*?'''|\"\"\"[\s\S]*?\"\"\"|'[^'\n]*'|"[^"\n]*")
        |'''(?:\\[\s\S]|(?!''')[^\\])*'''|\"\"\"(?:\\[\s\S]|(?!\"\"\")[^\\])*\"\"\"
        |'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
    |(?P<number>\d[\w.]*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>==|!=|<=|>=|&&|\|\||[][(){}.,:?<>+*/%!-])""",
    re.VERBOSE | re.ASCII,
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_POSITION = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


# It logs what goes wrong in a condition, with pieces of arguments; who asks is told, and nobody else.
logging.getLogger("cel").setLevel(logging.CRITICAL + 1)


def _cel() -> Any:
    """The library, once there is a condition: a whole terminal (rich, prompt_toolkit) comes with it, and takes time."""
    import cel

    return cel


class ConditionError(Exception):
    """The condition has no answer: an error in it, no bool, or values beyond the bounds. Not satisfied; a rule that
    denies, denies.
    """


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition, equal by its source. `variables` are those it uses."""

    source: str
    variables: frozenset[str]
    _program: Any = field(compare=False, repr=False)
    # Of a variable that is used by members only: which. The rest of it is never looked at.
    _members: Mapping[str, frozenset[str]] = field(compare=False, repr=False)

    def holds(self, context: Mapping[str, object]) -> bool:
        """Whether it is true of this context (JSON values and aware datetimes by variable). Raises ConditionError."""
        given = {name: self._part(name, context[name]) for name in self.variables if name in context}
        _Bounds().check(given, 0)
        cel = _cel()
        try:
            answer = self._program.execute(cel.Context(given, {_MATCHES: _matches}))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of the library's is no Exception
            raise ConditionError(visible(str(error), limit=200)) from None
        if not isinstance(answer, bool):
            raise ConditionError("the answer is neither true nor false")
        return answer

    def _part(self, name: str, value: object) -> object:
        if isinstance(value, datetime):
            return value.astimezone(UTC)  # getHours() and the like are of the value's own offset
        members = self._members.get(name)
        if members is None or not isinstance(value, dict):
            return value
        return {member: value[member] for member in members if member in value}


def compile_condition(source: str, *, variables: Collection[str]) -> Condition:
    """The condition. Raises Invalid("condition.invalid", params line and column, from 1, and expected)."""
    if len(source) > MAX_SOURCE:
        _refuse(source, 0, f"at most {MAX_SOURCE} characters, not {len(source)}")
    if not source.strip():
        _refuse(source, 0, "an expression that is true or false")
    tokens = list(_tokens(source))
    _check_brackets(source, tokens)
    scan = _Scan(source, tokens, frozenset(variables))
    program = _compiled(source, tokens)
    scan.check()
    return Condition(source, frozenset(scan.used), program, scan.members())


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        match = _TOKENS.match(source, at)
        if match is None:
            _refuse(source, at, f"CEL; {visible(source[at], limit=10)!r} means nothing here")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match.group(), at)
        at = match.end()


def _check_brackets(source: str, tokens: list[_Token]) -> None:
    open_: list[str] = []
    for token in tokens:
        if token.kind == "sign" and token.text in "([{":
            open_.append(token.text)
            if len(open_) > MAX_BRACKETS:
                _refuse(source, token.at, f"at most {MAX_BRACKETS} brackets inside one another")
        elif token.text in _CLOSES and (not open_ or open_.pop() != _CLOSES[token.text]):
            _refuse(source, token.at, f"no {token.text} here, where nothing is open that it closes")


def _compiled(source: str, tokens: list[_Token]) -> Any:
    text = source
    for token, after in pairwise(tokens):
        if token.kind == "name" and token.text == "matches" and after.text == "(":
            text = text[: token.at] + _MATCHES + text[token.at + len(_MATCHES) :]
    try:
        return _cel().compile(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the library's is no Exception
        found = _POSITION.search(str(error))
        line, column = (int(found[1]), int(found[2])) if found else (1, 1)
        reason = found[3] if found else "it cannot be read"
        raise _mistake(line, column, f"CEL ({visible(reason.split(' expecting')[0], limit=120)})") from None


class _Scan:
    """One walk over the words of a condition: the names it uses, and what could make it slow."""

    def __init__(self, source: str, tokens: list[_Token], known: frozenset[str]) -> None:
        self._source, self._tokens, self._known = source, tokens, known
        self.used: dict[str, set[str] | None] = {}
        self._bound: list[tuple[int, str]] = []  # brackets open at a comprehension, and the name that it gives an item
        self._depth = self._comprehensions = self._deepest = 0

    def check(self) -> None:
        """Raises Invalid("condition.invalid")."""
        for number, token in enumerate(self._tokens):
            if token.kind == "sign":
                self._sign(token)
            elif token.kind == "name" and token.text not in _CONSTANTS:
                self._name(number, token)
        self._check_cost()

    def members(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(members) for name, members in self.used.items() if members is not None}

    def _sign(self, token: _Token) -> None:
        if token.text in "([{":
            self._depth += 1
        elif token.text in _CLOSES:
            self._depth -= 1
            while self._bound and self._bound[-1][0] > self._depth:
                self._bound.pop()

    def _name(self, number: int, token: _Token) -> None:
        member, call = self._text(number - 1) == ".", self._text(number + 1) == "("
        if member and not self._ends_something(number - 2):
            _refuse(self._source, token.at, "a name without a dot before it")
        if call:
            self._called(number, token, member=member)
        elif not member and not any(token.text == name for _, name in self._bound):
            if token.text not in self._known:
                known = ", ".join(sorted(self._known))
                _refuse(self._source, token.at, f"a known name, not {visible(token.text, limit=40)!r}; known: {known}")
            self._use(number, token.text)

    def _ends_something(self, number: int) -> bool:
        """Whether a value ends there: a dot after it is about a member of it."""
        if number < 0:
            return False
        token = self._tokens[number]
        return token.text in _CLOSES or token.kind == "text" or (token.kind == "name" and token.text != "in")

    def _use(self, number: int, name: str) -> None:
        """Of a variable of which only members are used, only those are looked at."""
        members = self.used.setdefault(name, set())
        plain = self._text(number + 1) == "." and self._text(number + 3) != "("
        if members is not None and plain:
            members.add(self._text(number + 2))
        else:
            self.used[name] = None

    def _called(self, number: int, token: _Token, *, member: bool) -> None:
        if token.text in _MACROS and member:
            name = self._tokens[number + 2] if number + 2 < len(self._tokens) else token
            if name.kind != "name" or name.text in _CONSTANTS | self._known or self._text(number + 3) != ",":
                _refuse(self._source, name.at, f"a new name for an item, as in {token.text}(item, item > 1)")
            if token.text == "map" and self._bound:  # 10,000 new values, copied over and over
                _refuse(self._source, token.at, "no map inside another comprehension")
            self._comprehensions += 1
            self._bound.append((self._depth + 1, name.text))
            self._deepest = max(self._deepest, len(self._bound))
        elif token.text not in _FUNCTIONS:
            _refuse(self._source, token.at, f"a known function, not {visible(token.text, limit=40)!r}")
        elif token.text == "matches":
            self._regex(number, token, member=member)

    def _regex(self, number: int, token: _Token, *, member: bool) -> None:
        pattern = self._tokens[number + 2] if number + 2 < len(self._tokens) else token
        if not member or pattern.kind != "text" or self._text(number + 3) != ")":
            _refuse(self._source, token.at, 'a regex written out, as in args.path.matches("^/srv/[a-z]+$")')
        if len(self._bound) > 1:
            _refuse(self._source, token.at, "no regex inside a comprehension that is inside another")
        if pattern.text[0] in "bB":
            _refuse(self._source, pattern.at, "a text, not bytes")
        try:
            _regex(_cel().evaluate(pattern.text))
        except (ConditionError, ValueError) as error:
            _refuse(self._source, pattern.at, f"a regex of RE2's ({visible(str(error), limit=120)})")

    def _check_cost(self) -> None:
        plus = sum(token.text == "+" for token in self._tokens)
        nested = self._deepest > 1
        if self._deepest > 2:
            _refuse(self._source, 0, "at most one comprehension inside another")
        if self._comprehensions > MAX_COMPREHENSIONS:
            _refuse(self._source, 0, f"at most {MAX_COMPREHENSIONS} comprehensions")
        if nested and len(self._tokens) > MAX_NESTED_WORDS:
            _refuse(self._source, 0, f"at most {MAX_NESTED_WORDS} words where a comprehension is inside another")
        if plus > (most := MAX_NESTED_PLUS if nested else MAX_PLUS):
            _refuse(self._source, 0, f"at most {most} times +{' where a comprehension is inside another' * nested}")

    def _text(self, number: int) -> str:
        return self._tokens[number].text if 0 <= number < len(self._tokens) else ""


@dataclass(slots=True)
class _Bounds:
    """Counts what a context holds while walking it."""

    text: int = 0
    values: int = 0

    def check(self, value: object, depth: int) -> None:
        """Raises ConditionError beyond the bounds, and for what is no JSON and no time: no object gets out of here."""
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            raise ConditionError("the values are too many, or nested too deeply")
        if isinstance(value, str):
            self.text += len(value)
            if len(value) > MAX_TEXT or self.text > MAX_TOTAL_TEXT:
                raise ConditionError(f"a text is longer than {MAX_TEXT} characters, or all are than {MAX_TOTAL_TEXT}")
        elif isinstance(value, dict | list):
            if len(value) > MAX_ITEMS:
                raise ConditionError(f"a list has more than {MAX_ITEMS} items")
            for item in value if isinstance(value, list) else (*value, *value.values()):
                self.check(item, depth + 1)
        elif not isinstance(value, bool | int | float | datetime | None):
            raise ConditionError("a value is no JSON")


def _matches(text: object, pattern: object) -> bool:
    """CEL's `matches`, a search, in time linear in the text."""
    if not isinstance(text, str) or not isinstance(pattern, str):
        raise TypeError("matches is about a text")
    return _regex(pattern).search(text.encode()) is not None


@lru_cache(maxsize=512)
def _regex(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors, options.never_capture, options.max_mem = False, True, 1 << 20
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "unusable"
        raise ConditionError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None


def _refuse(source: str, at: int, expected: str) -> NoReturn:
    line = source.count("\n", 0, at) + 1
    raise _mistake(line, at - (source.rfind("\n", 0, at) + 1) + 1, expected)


def _mistake(line: int, column: int, expected: str) -> Invalid:
    where = f"line {line}, column {column} of the condition"
    return Invalid("condition.invalid", f"{where}: expected {expected}.", line=line, column=column, expected=expected)
