"""Canonical JSON (RFC 8785, JCS) and digests over it: equal values, equal bytes, in any language."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import is_

import msgspec

from .errors import Invalid
from .strictjson import MAX_SAFE_INTEGER, Json, JsonView

# Has exactly the escapes of RFC 8785 section 3.2.2.2; everything else stays literal.
_quote: Callable[[str], str] = json.encoder.encode_basestring
_quick: Callable[[JsonView], bytes] = msgspec.json.Encoder(order="sorted").encode


def canonical(value: JsonView) -> bytes:
    """Return the RFC 8785 form of `value`: members sorted by UTF-16 code units, ECMAScript numbers, UTF-8.

    1.0 and 1 give the same bytes, as do 0.0 and -0.0. Raises Invalid: json.number_range (NaN, infinity, an
    int beyond ±(2^53-1), which a double would blur), json.surrogate, json.depth, json.invalid (another type,
    a member name that is no string).
    """
    parts: list[str] = []
    try:
        if type(value) is dict and _is_plain(value):
            written = _quick(value)
            # Without escapes and beyond ASCII nothing is left that anybody would write in another way.
            if written.isascii() and b"\\" not in written:
                return written
        _write(value, parts)
        return "".join(parts).encode()
    except UnicodeEncodeError:
        raise Invalid("json.surrogate", "A text holds a lone surrogate.") from None
    except RecursionError:
        raise Invalid("json.depth", "The value is nested too deeply.") from None


def digest(value: JsonView, *, domain: str) -> str:
    """Return "sha256:" + hex of SHA-256 over `domain`, a newline and `canonical(value)`.

    `domain` names what is digested and its version ("jitaccess-request-v1"), so that a digest of one kind of
    object can never stand for another kind. Raises as `canonical`, and Invalid("digest.domain_invalid").
    """
    if not domain or "\n" in domain:
        raise Invalid("digest.domain_invalid", "A digest domain is one non-empty line.")
    return "sha256:" + hashlib.sha256(domain.encode() + b"\n" + canonical(value)).hexdigest()


def plain_numbers(value: Json) -> Json:
    """`value` with whole numbers as the canonical form has them: 5 for 5.0, 0 for -0.0. Only what changes is copied."""
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER else value
    if isinstance(value, list):
        items = [plain_numbers(item) for item in value]
        return value if all(map(is_, items, value)) else items
    if isinstance(value, dict):
        members = {name: plain_numbers(member) for name, member in value.items()}
        return value if all(map(is_, members.values(), value.values())) else members
    return value


def _is_plain(value: Mapping[str, JsonView]) -> bool:
    """Whether it holds texts, small numbers and such objects only: what most arguments and entries are."""
    for name, member in value.items():
        kind = type(member)
        if type(name) is not str or not (
            kind is str
            or kind is bool
            or member is None
            or (kind is int and -1_000_000_000 < member < 1_000_000_000)  # type: ignore[operator]  # it is an int
            or (kind is dict and _is_plain(member))  # type: ignore[arg-type]  # it is a dict
        ):
            return False
    return True


def _write(value: JsonView, out: list[str]) -> None:
    if value is None:
        out.append("null")
    elif isinstance(value, bool):  # before int: True is an int
        out.append("true" if value else "false")
    elif isinstance(value, str):
        out.append(_quote(value))
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise Invalid("json.number_range", "An integer is beyond ±(2^53-1).")
        out.append(int.__repr__(value))
    elif isinstance(value, float):
        out.append(_number(value))
    elif isinstance(value, list | tuple):
        _write_array(value, out)
    elif isinstance(value, dict):
        _write_object(value, out)
    else:
        raise Invalid("json.invalid", f"A {type(value).__name__} is not a JSON value.")


def _write_array(items: Sequence[JsonView], out: list[str]) -> None:
    separator = "["
    for item in items:
        out.append(separator)
        _write(item, out)
        separator = ","
    out.append("]" if items else "[]")


def _write_object(members: Mapping[str, JsonView], out: list[str]) -> None:
    separator = "{"
    for name in _sorted(members):
        value = members[name]
        out.append(f"{separator}{_quote(name)}:")
        if type(value) is str:  # most are, and a call for each costs more than what it does
            out.append(_quote(value))
        else:
            _write(value, out)
        separator = ","
    out.append("}" if members else "{}")


def _sorted(names: Mapping[str, JsonView]) -> list[str]:
    try:
        plain = "".join(names).isascii()
    except TypeError:
        raise Invalid("json.invalid", "A member name is not a string.") from None
    return sorted(names) if plain else sorted(names, key=_utf16)


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")  # RFC 8785 section 3.2.3; differs from code point order above U+FFFF


def _number(value: float) -> str:
    """ECMAScript Number::toString; Python's repr already has its digits (the shortest that round-trip)."""
    if not math.isfinite(value):
        raise Invalid("json.number_range", "NaN and infinity are not JSON numbers.")
    if value == 0:
        return "0"  # -0 too
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = float.__repr__(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The value is 0.DIGITS times ten to the power of `point`.
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        whole, fraction = digits[:point].ljust(point, "0"), digits[point:]
    elif -6 < point <= 0:
        whole, fraction = "0", "0" * -point + digits
    else:
        whole, fraction = digits[0], digits[1:]
        return f"{sign}{whole}{'.' if fraction else ''}{fraction}e{point - 1:+d}"
    return f"{sign}{whole}{'.' if fraction else ''}{fraction}"
