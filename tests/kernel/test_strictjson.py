from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import MAX_SAFE_INTEGER, Json, decode, encode, encode_read

from . import reference_json

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)

REFUSED = [
    (b"", "json.invalid"),
    (b"   ", "json.invalid"),
    (b"{", "json.invalid"),
    (b"{}{}", "json.invalid"),
    (b"{} x", "json.invalid"),
    (b'{"a":1,}', "json.invalid"),
    (b"{'a':1}", "json.invalid"),
    (b'{"a":01}', "json.invalid"),
    (b'{"a":+1}', "json.invalid"),
    (b'{"a":.5}', "json.invalid"),
    (b'{"a":1.}', "json.invalid"),
    (b'{"a":"\n"}', "json.invalid"),
    (b'{"a":"\\x41"}', "json.invalid"),
    (b'{"a":"\\u00g0"}', "json.invalid"),
    (b'{"a":1 /* c */}', "json.invalid"),
    ('{"a":\u0661}'.encode(), "json.invalid"),  # an Arabic digit
    ('\u00a0{"a":1}'.encode(), "json.invalid"),  # a space, but not of JSON
    (b'{"a":NaN}', "json.invalid"),
    (b'{"a":[Infinity]}', "json.invalid"),
    (b'{"a":-Infinity}', "json.invalid"),
    (b"1", "json.not_object"),
    (b'"text"', "json.not_object"),
    (b"null", "json.not_object"),
    (b"[]", "json.batch"),
    (b' \n[{"id":1}]', "json.batch"),
    (b"[broken", "json.batch"),
    (b'{"a":1,"a":1}', "json.duplicate_member"),
    (b'{"method":"x","m\\u0065thod":"y"}', "json.duplicate_member"),
    (b'{"a":[{"b":{"c":1,"d":2,"c":3}}]}', "json.duplicate_member"),
    (b'{"":1,"":2}', "json.duplicate_member"),
    (b'{"a":9007199254740992}', "json.number_range"),
    (b'{"a":-9007199254740992}', "json.number_range"),
    (b'{"a":[{"b":18446744073709551617}]}', "json.number_range"),
    (b'{"a":1e400}', "json.number_range"),
    (b'{"a":-1E+999999999999}', "json.number_range"),
    (b'{"a":"\\ud800"}', "json.surrogate"),
    (b'{"a":[1,{"b":"x\\udc00\\ud800"}]}', "json.surrogate"),
    (b'{"\\uDfFf":1}', "json.surrogate"),
    (b'{"a\\u0000":1}', "json.nul_in_name"),
    (b'{"a":{"\\u0000":1}}', "json.nul_in_name"),
    (b'\xef\xbb\xbf{"a":1}', "json.encoding"),
    (b'{"a":"\xff"}', "json.encoding"),
    (b'{"a":"\xed\xa0\x80"}', "json.encoding"),  # a surrogate in UTF-8 dress
    (b'{"a":"\xc0\x80"}', "json.encoding"),  # overlong NUL
    (b'{"a":"\0"}', "json.encoding"),
    *[
        ('{"a":1}'.encode(name), "json.encoding")
        for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
    ],
]


@pytest.mark.parametrize(("body", "code"), REFUSED, ids=[repr(body)[:40] for body, _ in REFUSED])
def test_what_is_not_one_strict_object_is_refused_with_its_own_code(body: bytes, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        decode(body)
    assert refusal.value.code == code
    assert refusal.value.__cause__ is None
    assert refusal.value.detail.isprintable()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b'\t\r\n {"a" : [1, -0, 2.5e3, true, false, null]} \n', {"a": [1, 0, 2500.0, True, False, None]}),
        (b'{"a":9007199254740991,"b":-9007199254740991}', {"a": MAX_SAFE_INTEGER, "b": -MAX_SAFE_INTEGER}),
        (b'{"a":"\\ud83d\\ude00\\u0000\\/"}', {"a": "\U0001f600\0/"}),  # a pair is no lone surrogate
        (b'{"a":{"a":{"a":1}},"A":2}', {"a": {"a": {"a": 1}}, "A": 2}),
        ('{"é":"\u2028"}'.encode(), {"é": "\u2028"}),
    ],
)
def test_an_object_is_read(body: bytes, value: dict[str, Json]) -> None:
    assert decode(body) == value


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
def test_depth_is_counted_in_containers_and_limited_exactly(opening: bytes, closing: bytes) -> None:
    step = len(opening.translate(None, b'"a:'))
    fits = (64 - 1) // step
    body = b'{"r":' + opening * fits + b"1" + closing * fits + b"}"
    assert "r" in decode(body)
    with pytest.raises(Invalid) as refusal:
        decode(body, max_depth=step * fits)
    assert refusal.value.code == "json.depth"


def test_brackets_in_strings_and_side_by_side_do_not_count_as_depth() -> None:
    text = '[{"' * 500
    assert decode(json.dumps({"a": text, "b": [[]] * 500, text: {}}).encode())["a"] == text


def test_a_quote_trick_cannot_hide_depth() -> None:
    deep = b"[" * 100 + b"]" * 100
    for prefix in (b'"\\\\"', b'"\\""', b'"\\\\\\""', b'"]]]]"'):
        with pytest.raises(Invalid) as refusal:
            decode(b'{"a":' + prefix + b',"b":' + deep + b"}")
        assert refusal.value.code == "json.depth"


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_absurd_depth_is_a_refusal_and_no_recursion_error(body: bytes) -> None:
    with pytest.raises(Invalid) as refusal:
        decode(body)
    assert refusal.value.code in {"json.depth", "json.batch"}


def test_a_generous_depth_limit_still_ends_in_a_refusal() -> None:
    depth = sys.getrecursionlimit() * 50
    with pytest.raises(Invalid) as refusal:
        decode(b'{"a":' * depth + b"1" + b"}" * depth, max_depth=depth)
    assert refusal.value.code == "json.depth"


def test_a_number_of_a_million_digits_is_refused_at_once() -> None:
    with pytest.raises(Invalid) as refusal:
        decode(b'{"a":' + b"9" * 1_000_000 + b"}")
    assert refusal.value.code == "json.number_range"
    assert len(refusal.value.detail) < 100


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b'\\"' * 250_000,
        b'{"a":[' + b"[]," * 100 + b'"' + b'\\"' * 250_000,
        b'{"' + b"\\u0061" * 50_000 + b'":[' + b"1," * 100_000 + b"1]}",
    ],
)
def test_hostile_half_megabytes_cost_linear_time(body: bytes) -> None:
    started = time.process_time()
    try:
        decode(body)
    except Invalid as refusal:
        assert refusal.code == "json.invalid"
    assert time.process_time() - started < 2  # quadratic would be minutes


def test_the_place_is_named_by_pointer_or_byte_offset() -> None:
    with pytest.raises(Invalid, match=r"/a/1/x~1y\\u\{202e\}"):
        decode('{"a":[1,{"x/y\u202e":"\\ud800"}]}'.encode())
    with pytest.raises(Invalid, match="at byte 6"):
        decode('{"é":x}'.encode())
    with pytest.raises(Invalid, match='"b"'):
        decode(b'{"a":{"b":1,"\\u0062":2}}')


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_was_encoded_is_read_back(value: dict[str, Any]) -> None:
    body = encode(value)
    assert decode(body) == value
    assert encode(decode(body)) == body


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_give_an_object_or_a_refusal(body: bytes) -> None:
    try:
        value = decode(body)
    except Invalid as refusal:
        assert refusal.code.startswith("json.")
    else:
        assert json.loads(body) == value


@given(st.lists(st.sampled_from([*'{}[]",:\\', "\\u0061", '"a"', "1", "1e999", "NaN", "\\ud800", " "]), max_size=24))
def test_arbitrary_token_soup_gives_an_object_or_a_refusal(tokens: list[str]) -> None:
    try:
        value = decode("".join(['{"a":', *tokens, "}"]).encode(), max_depth=4)
    except Invalid as refusal:
        assert refusal.code.startswith("json.")
    else:
        assert decode(encode(value)) == value


def test_encoding_is_compact_utf8_in_member_order() -> None:
    assert encode({"b": [1, 2.5, "é\U0001f600"], "a": None}) == '{"b":[1,2.5,"é\U0001f600"],"a":null}'.encode()


def _ring() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 50):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (math.nan, "json.number_range"),
        ([-math.inf], "json.number_range"),
        ("\ud800", "json.surrogate"),
        ({"\udfff": 1}, "json.surrogate"),
        ({"a": b"bytes"}, "json.invalid"),
        ({"a": {1, 2}}, "json.invalid"),
        (_ring(), "json.invalid"),
        (_deep(), "json.depth"),
    ],
    ids=["nan", "infinity", "surrogate", "surrogate-name", "bytes", "set", "ring", "deep"],
)
def test_what_json_cannot_carry_is_not_encoded(value: Any, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        encode(value)
    assert refusal.value.code == code


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([(",", ":"), (", ", ": ")]), st.data())
def test_the_short_way_reads_what_the_long_way_reads(value: Any, separators: Any, data: st.DataObject) -> None:
    body = json.dumps(value, separators=separators, ensure_ascii=False).encode()
    if data.draw(st.booleans()):  # broken somewhere
        place = data.draw(st.integers(0, len(body)))
        piece = data.draw(
            st.sampled_from([b'"', b",", b'"a":1,', b"\\u0000", b"0", b".", b"-", b"e5", b"\x01", b"{", b"}"])
        )
        body = body[:place] + piece + body[place:]
    quick = strictjson._decode_usual(body, 64)
    if quick is not None:
        assert repr(quick) == repr(reference_json.decode(body))
        assert decode(encode_read(quick)) == quick


@pytest.mark.parametrize(("body", "code"), REFUSED, ids=[repr(body)[:40] for body, _ in REFUSED])
def test_the_short_way_accepts_nothing_that_is_refused(body: bytes, code: str) -> None:
    assert strictjson._decode_usual(body, 64) is None, code


def test_the_short_way_is_taken_for_what_clients_send() -> None:
    message = {
        "jsonrpc": "2.0",
        "id": "n1",
        "method": "tools/call",
        "params": {"name": "é", "arguments": {"n": [1, 2.5]}},
    }
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps(message, separators=separators, ensure_ascii=False).encode()
        assert strictjson._decode_usual(body, 64) == message
