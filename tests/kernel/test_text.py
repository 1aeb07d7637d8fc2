from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.text import fits, has_hidden, is_blank, visible

HOSTILE = st.text(
    st.characters(codec=None)
    | st.characters(codec=None, categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])
    | st.sampled_from("\r\n☀\ufe0f"),
    max_size=40,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, é, 漢字, 😀", "plain text, é, 漢字, 😀"),
        ("evil\u202etxt.exe", r"evil\u{202e}txt.exe"),
        ("a\u200bb\u2060c\ufeffd", r"a\u{200b}b\u{2060}c\u{feff}d"),
        ("\x1b[2Jgone\x9b1m", r"\u{1b}[2Jgone\u{9b}1m"),
        ("nul\0tab\tline\n", r"nul\u{0}tab\u{9}line\u{a}"),
        ("x\ud800y", r"x\u{d800}y"),
        ("\U000e0041\U000e007f", r"\u{e0041}\u{e007f}"),  # tag characters spell hidden ASCII
        ("\ue000\U0010fffd", r"\u{e000}\u{10fffd}"),
        ("\u2028\u2029", r"\u{2028}\u{2029}"),
        ("\u3164\u115f\u2800\u00ad", r"\u{3164}\u{115f}\u{2800}\u{ad}"),
        ("☀\ufe0f", "☀\ufe0f"),
        ("☀\ufe0f\ufe0f\ufe0e", "☀\ufe0f\\u{fe0f}\\u{fe0e}"),
        ("a\ufe0f\ufe01\U000e0100", r"a\u{fe0f}\u{fe01}\u{e0100}"),
        ("\ufe0f", r"\u{fe0f}"),
        ("👩\u200d💻", "👩\\u{200d}💻"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_becomes_an_escape(text: str, shown: str) -> None:
    assert visible(text, limit=200) == shown


def test_a_newline_stays_only_where_lines_are_wanted() -> None:
    assert visible("a\r\nb\nc\rd", limit=50, multiline=True) == "a\nb\nc\\u{d}d"
    assert visible("a\nb", limit=50) == r"a\u{a}b"


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("ab\u202ecd", 8, "ab…"),  # an escape is never cut in half
        ("ab\u202e", 10, r"ab\u{202e}"),
        ("\u202e", 3, "…"),
        ("abc", 1, "…"),
        ("a" * 1_000_000, 5, "aaaa…"),
    ],
)
def test_a_long_text_is_cut_and_says_so(text: str, limit: int, shown: str) -> None:
    assert visible(text, limit=limit) == shown


@given(HOSTILE, st.integers(1, 120), st.booleans())
def test_the_result_is_inert_short_and_stable(text: str, limit: int, multiline: bool) -> None:
    shown = visible(text, limit=limit, multiline=multiline)
    assert len(shown) <= limit
    unsafe = [char for char in shown if category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}]
    assert set(unsafe) <= ({"\n"} if multiline else set())
    assert visible(shown, limit=limit, multiline=multiline) == shown
    assert not has_hidden(shown)
    shown.encode()


@given(HOSTILE)
def test_hidden_is_what_would_be_escaped_other_than_ordinary_space(text: str) -> None:
    ordinary = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    assert has_hidden(text) == (visible(ordinary, limit=1_000) != ordinary)


@pytest.mark.parametrize("text", ["two\nlines\r\nand\ttab", "café 漢字 ☀\ufe0f", "", r"\u{202e}"])
def test_ordinary_text_hides_nothing(text: str) -> None:
    assert not has_hidden(text)


@pytest.mark.parametrize("text", ["a\rb", "a\u200b", "\x1b[0m", "\U000e0041", "\ud800", "a\ufe0f"])
def test_hidden_characters_are_noticed(text: str) -> None:
    assert has_hidden(text)


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \t\r\n\u00a0\u3000", True), ("\u200b", True), (" \u2060\ufe0f\u3164\u2800\u202e\0", True),
     ("\u200b.", False), ("é", False), ("☀\ufe0f", False)],
)  # fmt: skip
def test_what_shows_nothing_is_blank(text: str, blank: bool) -> None:
    assert is_blank(text) is blank


@pytest.mark.parametrize("char", ["x", "\u202e", "\U0010ffff", "\n"])
def test_what_fits_is_shown_whole_and_what_does_not_is_not(char: str) -> None:
    for count in range(1, 120):
        whole = "…" not in visible(char * count, limit=100, multiline=True)
        assert fits(char * count, limit=100) is whole
