"""The codec against a slow model and against the standard library: 50,000 inputs, a million with the nightly profile.

Each example is a seed: two hundred bodies made by a grammar and broken at a few places.
"""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import decode, encode, encode_read
from tests.kernel import json_model

pytestmark = pytest.mark.pure
EACH = 200
# 250 of them, and 5,000 with the nightly profile.
SEEDS = settings(max_examples=max(settings.default.max_examples, 250))
COUNTED = {"bodies": 0, "taken": 0}

# What parsers differ about.
TEXTS = (
    "", "a", "name", "é", "\u0130", "\ud7ff\ue000", "😀", "\u2028", "\x7f", "a/b", 'a"b', "a\\b", "\ufeff", "\u017f", "\u212a",
    "constructor", "__proto__", "x" * 70, "\ufffd", "\U0010ffff",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "1", "-1", "0.0", "-0.0", "1.0", "1e2", "1E+2", "1e-2", "0.1", "1.5e300", "1e308", "1.8e308", "1e400", "-1e400",
    "4.9e-324", "1e-400", "9007199254740991", "-9007199254740991", "9007199254740992", "-9007199254740993",
    "9007199254740993", "18446744073709551616", "123456789012345678901234567890", "1" * 5000, "0.30000000000000004",
    "9007199254740992.0", "9007199254740993.0", "123456789.123456789", "1e16", "1e15", "12345678901234567.0", "100000000000000000000e-5",
)  # fmt: skip
WRONG_NUMBERS = (
    "01",
    "-01",
    "00",
    "+1",
    ".5",
    "1.",
    "1.e2",
    "1e",
    "1e+",
    "-",
    "0x1",
    "1_0",
    "NaN",
    "Infinity",
    "-Infinity",
    "\u0661",
    "1.2.3",
)
WRONG_STRINGS = (
    '"', '"\\"', '"\\x41"', '"\\u12"', '"\\u00g0"', '"\\u+123"', '"a\nb"', '"a\tb"', '"a\x01b"', "'a'", '"\\ud800"', '"\\udc00"',
    '"\\udc00\\ud800"', '"\\ud800\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u0041"', '"\\/"', '"\\b\\f\\n\\r\\t"', '"\\u00e9"',
    '"\\ud83d\\n\\ude00"', '"\\U0041"', '"\\u007f"', '"\\uFFFF"',
)  # fmt: skip
SPACES = ("", "", "", " ", "\n", "\r\n\t ", "  ")
WRONG_SPACES = ("\x0b", "\x0c", "\u00a0", "\u2003", "\ufeff", "\x1c", "//c\n", "/**/", "#\n")
PIECES = (b",", b":", b"{", b"}", b"[", b"]", b'"', b"\\", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
          b"\xe2\x80", b"0", b"-", b"e", b".", b"null", b"\\u", b" ", b"\xef\xbb\xbf")  # fmt: skip


def text(random: Random) -> str:
    """One JSON text of a string, written in one of the ways there are."""
    if random.random() < 0.08:
        return random.choice(WRONG_STRINGS)
    value = random.choice(TEXTS)
    return json.dumps(value, ensure_ascii=random.random() < 0.3)


def value(random: Random, depth: int) -> str:
    kind = random.random()
    if depth <= 0 or kind < 0.25:
        return random.choice(WRONG_NUMBERS) if random.random() < 0.04 else random.choice(NUMBERS)
    if kind < 0.45:
        return text(random)
    if kind < 0.55:
        return random.choice(
            ("true", "false", "null", "null", "True", "nul") if random.random() < 0.1 else ("true", "null")
        )
    return collection(random, depth, named=random.random() < 0.6)


def collection(random: Random, depth: int, *, named: bool) -> str:
    def space() -> str:
        return random.choice(WRONG_SPACES) if random.random() < 0.003 else random.choice(SPACES)

    members = []
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        one = value(random, depth - 1)
        members.append(
            f"{space()}{text(random)}{space()}:{space()}{one}{space()}" if named else f"{space()}{one}{space()}"
        )
    if members and random.random() < 0.05:
        members.append(random.choice(members))
    end = "," if random.random() < 0.01 else ""
    inside = ",".join(members) + end
    return f"{{{inside or space()}}}" if named else f"[{inside or space()}]"


def deep(random: Random) -> str:
    """Around the depth that is allowed, brackets in strings beside it."""
    depth, quoted = random.randint(60, 68), json.dumps("[{" * random.randint(0, 40))
    opened = [random.choice("[{") for _ in range(depth)]
    inside = "".join("[" if one == "[" else f'{{{quoted}:1,"b":' for one in opened)
    return f'{{"a":{inside}1{"".join("]" if one == "[" else "}" for one in reversed(opened))}}}'


def body(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.02:
        written = deep(random)
    elif kind < 0.05:
        written = value(random, 2)
    else:
        written = random.choice(SPACES) + collection(random, random.randint(1, 4), named=True) + random.choice(SPACES)
    raw = written.encode("utf-8", "surrogatepass")
    if random.random() < 0.02:
        raw = written.encode(random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")), "surrogatepass")
    return broken(random, raw) if random.random() < 0.4 else raw


def broken(random: Random, raw: bytes) -> bytes:
    """A byte changed, a piece put in, a part taken out, doubled or moved; once or twice."""
    for _ in range(random.choice((1, 1, 2))):
        one, other = sorted((random.randint(0, len(raw)), random.randint(0, len(raw))))
        match random.randint(0, 4):
            case 0:
                raw = raw[:one] + bytes([random.randint(0, 255)]) + raw[one + 1 :]
            case 1:
                raw = raw[:one] + random.choice(PIECES) + raw[one:]
            case 2:
                raw = raw[:one] + raw[min(other, one + 4) :]
            case 3:
                raw = raw[:other] + raw[one:other] + raw[other:]
            case _:
                raw = raw[:other]
    return raw


def exactly(one: Any, other: Any) -> bool:
    """Equal, of the same types, members in the same order, and zero with its sign."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(exactly(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(exactly, one, other))
    return bool(one == other) and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


def check(raw: bytes) -> None:
    meant, codes = json_model.read(raw)
    COUNTED["bodies"] += 1
    try:
        found = decode(raw)
    except Invalid as refusal:
        assert refusal.code in codes, (raw, refusal.code, codes)
        assert raw.count(b"\n") > 2 or len(refusal.detail) < 400, refusal.detail
        return
    assert not codes, (raw, found, codes)
    assert exactly(found, meant), (raw, found, meant)
    COUNTED["taken"] += 1
    assert exactly(json.loads(raw), found), raw
    for written in (encode(found), encode_read(found)):
        assert exactly(decode(written), found), (raw, written)
        assert exactly(json.loads(written), found), (raw, written)
        assert not any(byte < 0x20 for byte in written), written
    assert json.loads(canonical(found), parse_int=float) == found, raw  # numbers are doubles there (RFC 8785)


@SEEDS
@given(seed=st.integers(0, 2**64))
def test_the_codec_reads_as_the_model_does(seed: int) -> None:
    random = Random(seed)
    for _ in range(EACH):
        check(body(random))


def test_a_good_part_of_the_bodies_is_taken() -> None:
    """Guards the above against bodies of which none is JSON."""
    before = dict(COUNTED)
    for seed in range(20):
        test_the_codec_reads_as_the_model_does.hypothesis.inner_test(seed=seed)
    bodies, taken = (COUNTED[what] - before[what] for what in ("bodies", "taken"))
    assert bodies == 20 * EACH
    assert 0.2 < taken / bodies < 0.8
