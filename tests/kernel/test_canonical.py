from __future__ import annotations

import enum
import hashlib
import json
import math
import random
import struct
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.canonical import canonical, digest, plain_numbers
from jitaccess.kernel.errors import Invalid

from .test_strictjson import NAMES, VALUES

# RFC 8785 appendix B, in full.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_are_written_as_in_appendix_b(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value) == text.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), [10**400]])
def test_numbers_a_double_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        canonical(value)
    assert refusal.value.code == "json.number_range"


def test_the_example_of_section_3_2_2_gives_the_bytes_of_section_3_2_4() -> None:
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = bytes.fromhex(
        "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e33"
        "3333333333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e"
        "4127425c225c5c5c5c5c222f227d"
    )
    assert canonical(json.loads(source)) == expected


def test_members_sort_by_utf16_code_units_as_in_section_3_2_3() -> None:
    source = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(source)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_strings_escape_only_what_the_rfc_escapes() -> None:
    assert (
        canonical('\b\t\n\f\r"\\\x00\x1f\x7f/\u2028é')
        == rb'"\b\t\n\f\r\"\\\u0000\u001f' + "\x7f/\u2028é".encode() + b'"'
    )


def test_empty_containers_and_enums_are_written_plainly() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Size(enum.IntEnum):
        BIG = 3

    assert canonical({"a": [], "b": {}, "c": Colour.RED, "d": Size.BIG}) == b'{"a":[],"b":{},"c":"red","d":3}'


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("\ud800", "json.surrogate"),
        ({"\udc00": 1}, "json.surrogate"),
        ({1: 2}, "json.invalid"),
        ({None: 2}, "json.invalid"),
        (b"x", "json.invalid"),
        ([{1, 2}], "json.invalid"),
    ],
)
def test_what_is_not_json_has_no_canonical_form(value: Any, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        canonical(value)
    assert refusal.value.code == code


def test_absurd_depth_is_a_refusal() -> None:
    deep: Any = 1
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    with pytest.raises(Invalid) as refusal:
        canonical(deep)
    assert refusal.value.code == "json.depth"


@given(VALUES)
def test_the_canonical_form_is_json_of_an_equal_value_and_a_fixed_point(value: Any) -> None:
    form = canonical(value)
    # As doubles, because the form of a large float reads back as an int that Python would keep exact.
    again = json.loads(form, parse_int=float)
    assert again == json.loads(json.dumps(value), parse_int=float)
    assert canonical(again) == form


@given(st.dictionaries(NAMES, VALUES, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(value: dict[str, Any], order: random.Random) -> None:
    members = list(value.items())
    order.shuffle(members)
    assert canonical(dict(members)) == canonical(value)


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_an_int_and_the_equal_float_are_the_same(value: int) -> None:
    assert canonical(value) == canonical(float(value)) == str(value).encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_exactly(value: float) -> None:
    assert float(canonical(value)) == value


def test_true_and_one_differ() -> None:
    assert canonical([True, False]) != canonical([1, 0])


def test_a_digest_is_sha256_over_domain_newline_and_form() -> None:
    expected = hashlib.sha256(b'request-v1\n{"a":1,"b":2}').hexdigest()
    assert digest({"b": 2, "a": 1.0}, domain="request-v1") == f"sha256:{expected}"
    assert digest({"b": 2, "a": 1}, domain="request-v2") != f"sha256:{expected}"


@pytest.mark.parametrize("domain", ["", "a\nb"])
def test_a_digest_domain_that_could_blur_into_the_value_is_refused(domain: str) -> None:
    with pytest.raises(Invalid) as refusal:
        digest({}, domain=domain)
    assert refusal.value.code == "digest.domain_invalid"


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (5.0, "5"),
        (-0.0, "0"),
        (5.5, "5.5"),
        (1e300, "1e+300"),
        (2.0**53, "9007199254740992.0"),
        (True, "true"),
        ("5.0", '"5.0"'),
    ],
)
def test_whole_numbers_are_written_without_a_fraction_where_a_double_holds_them_exactly(given: Any, plain: str) -> None:
    assert json.dumps(plain_numbers({"a": [given]})) == f'{{"a": [{plain}]}}'


def test_what_has_plain_numbers_is_the_same_object_as_before() -> None:
    value: Any = {"a": [1, 2.5, {"b": None}], "c": "5.0"}
    assert plain_numbers(value) is value
