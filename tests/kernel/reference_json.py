"""Strict JSON at the edge (I-JSON, RFC 7493, and narrower): two parsers cannot read one body in two ways."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NoReturn, TypeAlias

from .errors import Invalid
from .text import visible

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]
# What only gets read, so that a dict[str, str] fits too (dict is invariant). Still dicts, lists or tuples.
JsonView: TypeAlias = "bool | int | float | str | Sequence[JsonView] | Mapping[str, JsonView] | None"
# (path of the parent, own name): joined only for an error, or a long name with many children costs O(n²).
_Path: TypeAlias = "tuple[()] | tuple[_Path, str]"

MAX_SAFE_INTEGER = 2**53 - 1

_SAFE_INTEGER_LENGTH = len(str(-MAX_SAFE_INTEGER))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # possessive: linear on any input
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise Invalid("json.duplicate_member", f'One object has two members "{visible(twice, limit=80)}".')
    return members


def _integer(digits: str) -> int:
    # The length goes first: int() of thousands of digits raises ValueError and costs quadratic time.
    if len(digits) > _SAFE_INTEGER_LENGTH or abs(value := int(digits)) > MAX_SAFE_INTEGER:
        raise Invalid("json.number_range", f"The integer {visible(digits, limit=40)} is beyond ±(2^53-1).")
    return value


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise Invalid("json.number_range", f"The number {visible(digits, limit=40)} does not fit a double.")
    return value


def _constant(name: str) -> NoReturn:
    raise Invalid("json.invalid", f"{name} is not JSON.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(body: bytes, *, max_depth: int = 64) -> JsonObject:
    """Return the one JSON object in `body`, or raise Invalid.

    Codes: json.encoding (not UTF-8, or a BOM, or a raw NUL as UTF-16 and UTF-32 have), json.batch (an
    array), json.not_object (a scalar), json.invalid (not JSON; also NaN and Infinity), json.depth (more than
    `max_depth` containers inside one another), json.duplicate_member (compared after unescaping, in any
    object), json.number_range (an integer beyond ±(2^53-1), or a number that overflows a double),
    json.surrogate (a lone one), json.nul_in_name. No other exception leaves, whatever the bytes are.
    """
    if body.startswith(b"\xef\xbb\xbf") or b"\0" in body:
        raise Invalid("json.encoding", "The body must be UTF-8 without byte order mark and NUL bytes.")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Invalid("json.encoding", f"The body is not UTF-8 at byte {error.start}.") from None
    if text.lstrip(" \t\r\n").startswith("["):
        raise Invalid("json.batch", "The body is an array: batches are not supported, send one object.")
    _check_depth(body, max_depth)
    try:
        value: Json = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode())
        raise Invalid("json.invalid", f"The body is not JSON at byte {offset}: {error.msg}.") from None
    except RecursionError:  # a caller deep in its own stack, or a generous max_depth
        raise Invalid("json.depth", "The body is nested too deeply.") from None
    if not isinstance(value, dict):
        raise Invalid("json.not_object", "The body must be one JSON object.")
    if "\\u" in text:  # raw UTF-8 can hold neither, so only an escape can bring one in
        _check_strings(value)
    return value


def encode(value: JsonView) -> bytes:
    """Return `value` as compact UTF-8 JSON, members in their order.

    Raises Invalid: json.number_range (NaN, infinity), json.surrogate, json.depth, json.invalid (not JSON).
    """
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise Invalid("json.surrogate", "A text holds a lone surrogate.") from None
    except RecursionError:
        raise Invalid("json.depth", "The value is nested too deeply.") from None
    except ValueError as error:
        code = "json.number_range" if str(error).startswith("Out of range") else "json.invalid"
        raise Invalid(code, f"The value cannot be written as JSON: {error}.") from None
    except TypeError as error:
        raise Invalid("json.invalid", f"The value cannot be written as JSON: {error}.") from None


def _check_depth(body: bytes, max_depth: int) -> None:
    if body.count(b"{") + body.count(b"[") <= max_depth:
        return  # the usual case: too few brackets even if every one of them nests
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    # Unbalanced closers could make the sum too low, but the parser stops at the first of them.
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > max_depth:
        raise Invalid("json.depth", f"The body nests more than {max_depth} levels deep.", max_depth=max_depth)


def _check_strings(root: Json) -> None:
    stack: list[tuple[_Path, Json]] = [((), root)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, list):
            stack.extend(((path, str(index)), item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            for name, item in value.items():
                _check_text(name, path)
                if "\0" in name:
                    raise Invalid("json.nul_in_name", f'A member name in "{_pointer(path)}" holds NUL.')
                stack.append(((path, name), item))


def _check_text(text: str, path: _Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("json.surrogate", f'A text at "{_pointer(path)}" holds a lone surrogate.') from None


def _pointer(path: _Path) -> str:
    """Return the JSON pointer (RFC 6901) of `path`, safe to show."""
    names: list[str] = []
    while path:
        path, name = path
        names.append("/" + name.replace("~", "~0").replace("/", "~1"))
    return visible("".join(reversed(names)), limit=120)
