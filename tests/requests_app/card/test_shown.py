from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit.events import Event
from jitaccess.kernel.text import has_hidden, visible
from requests_app.card.shown import LONGEST, shown
from requests_app.card.timeline import _LIFE

pytestmark = pytest.mark.pure
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6).filter(str.isprintable), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_what_is_shown_is_json_of_the_very_value_and_nothing_in_it_hides(value: Any) -> None:
    told = shown(value)
    assert told.whole
    # Beyond 2^53 only doubles are left, and JSON has one way to write them (RFC 8785).
    assert json.loads(told.text, parse_int=lambda digits: float(digits) if len(digits) > 16 else int(digits)) == value
    assert not has_hidden(told.text)
    assert visible(told.text, limit=LONGEST, multiline=True) == told.text


@pytest.mark.parametrize("text", ["\u202e", "\u200b", "\U000e0041", "\x7f", "\u2028", "a\ufe0f\ufe0f", "\ue000"])
def test_what_cannot_be_seen_is_named_and_escaped_so_that_no_text_looks_like_it(text: str) -> None:
    told = shown({text: [text]})
    assert told.hidden
    assert json.loads(told.text) == {text: [text]}
    literal = shown(json.dumps(text)[1:-1])
    assert not literal.hidden
    assert literal.text.strip('"') not in told.text


@pytest.mark.parametrize(
    "text",
    [
        "p\u0430ypal",
        "\u0430ccount",
        "rm\u00a0-rf",
        "1\u20444",
        "\uff41dmin",
        "cafe\u0301",
        "\U0001d41aa",
        "rm \u2010rf",
    ],
)
def test_what_is_drawn_like_something_else_is_named_and_escaped(text: str) -> None:
    told = shown({"to": text})
    assert told.hidden
    assert told.text.isascii()
    assert json.loads(told.text) == {"to": text}


@pytest.mark.parametrize(
    "text",
    [
        "\u043f\u0440\u0438\u0432\u0435\u0442",
        "caf\u00e9",
        "\u05d0\u05d1",
        "\u4f60\u597d",
        "na\u00efve \u2026 \U0001f600",
    ],
)
def test_what_is_written_in_other_scripts_stays_readable(text: str) -> None:
    told = shown({"to": text})
    assert not told.hidden
    assert text in told.text


def test_what_is_written_from_right_to_left_keeps_to_its_place() -> None:
    told = shown({"\u05d0\u05d1": "\u05d2\u05d3", "\u05d4": 5, "a": "b"})
    apart = [piece for piece, apart in told.pieces if apart]
    assert apart == ['"\u05d0\u05d1"', '"\u05d2\u05d3"', '"\u05d4"']
    assert "".join(piece for piece, _ in told.pieces) == told.text
    assert told.isolated.count("\u2068") == told.isolated.count("\u2069") == 3
    assert "\u2068" not in shown({"a": "b"}).isolated


def test_members_stand_in_their_canonical_order_and_numbers_as_they_are_digested() -> None:
    assert shown({"b": 1.0, "a": 1e21, "\ufb33": 0, "\U0001f600": -0.0}).text == (
        '{\n  "a": 1e+21,\n  "b": 1,\n  "\U0001f600": 0,\n  "\ufb33": 0\n}'
    )


def test_what_is_too_long_or_too_deep_is_not_whole() -> None:
    assert not shown("x" * LONGEST).whole
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    told = shown(deep)
    assert not told.whole
    assert len(told.text) <= LONGEST + 1


@pytest.mark.parametrize(
    "event", [one for one in Event if one.startswith(("request.", "grant.", "provision.", "break_glass."))]
)
def test_every_event_of_a_requests_life_has_a_sentence(event: Event) -> None:
    assert _LIFE[event].text
