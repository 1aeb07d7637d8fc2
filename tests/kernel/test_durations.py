from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.durations import format_duration, parse_duration
from jitaccess.kernel.errors import Invalid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1_800),
        ("4h", 14_400),
        ("2d", 172_800),
        ("1h30m", 5_400),
        ("1d2h3m4s", 93_784),
        ("0s", 0),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "0", "-5", "+7", 30])
def test_a_number_without_unit_is_refused_by_name(text: Any) -> None:
    with pytest.raises(Invalid, match="no unit") as refusal:
        parse_duration(text)
    assert refusal.value.code == "duration.invalid"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "4 h",
        " 4h",
        "4h\n",
        "-4h",
        "4H",
        "h",
        "1.5h",
        "30m1h",
        "1h1h",
        "4w",
        "4hours",
        "\u0664h",
        "9" * 10 + "s",
        None,
    ],
)
def test_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_duration(text)
    assert refusal.value.code == "duration.invalid"
    assert "no unit" not in refusal.value.detail
    assert refusal.value.detail.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (5_400, "1 h 30 min"),
        (172_800, "2 d"),
        (93_784, "1 d 2 h 3 min 4 s"),
        (3_601, "1 h 1 s"),
        (0, "0 s"),
        (-90, "-1 min 30 s"),
    ],
)
def test_a_duration_is_shown_for_people(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**9))
def test_what_is_shown_can_be_read_without_its_spaces(seconds: int) -> None:
    assert parse_duration(format_duration(seconds).replace(" ", "").replace("min", "m")) == seconds
