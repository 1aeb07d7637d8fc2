from __future__ import annotations

import pickle
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import Pattern, PatternSet, compile_pattern

ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("ab.\n^$\\*\ud800"), max_size=12)


@pytest.mark.parametrize(
    ("source", "hits", "misses"),
    [
        ("read", ["read"], ["Read", "reads", "read\n", " read", ""]),
        ("a.c", ["a.c"], ["abc"]),
        ("cash$", ["cash$"], ["cash"]),
        ("a|b", ["a|b"], ["a", "b"]),
        ("é", ["é"], ["e\u0301", "É"]),
        ("K", ["K"], ["\u212a", "k"]),  # the Kelvin sign lower-cases to k
        ("*", ["", "x", "\n", "a\r\nb", "\ud800", "\0"], []),
        ("git_*", ["git_", "git_log", "git_\n"], ["git", "Git_log", "xgit_log", "\ngit_log"]),
        ("*_log", ["_log", "git_log"], ["git_log\n", "git_logs"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["acb", "ab", "abcd"]),
        ("a**b", ["ab", "axxb"], ["a"]),
        ("[a-z]*(x)?", ["[a-z](x)?", "[a-z]..(x)?"], ["abc", "a(x)"]),
        (r"\d*", [r"\d", r"\d1"], ["1", "d"]),
        ("é*", ["é", "éa"], ["\u00c3", "e"]),
        ("^read|write$", ["read", "write"], ["reader", "rewrite", "read\n", "\nwrite", "xread"]),
        ("^db-[0-9]+$", ["db-1", "db-42"], ["db-", "xdb-1", "db-1\n", "db-1x", "DB-1", "db-\u0661"]),
        ("^a.c$", ["abc", "aéc", "a\U0001f600c"], ["ac", "a\nc"]),
        ("^(?i)read$", ["read", "READ"], ["reads"]),
        ("^(?m)a$|^b$", ["a", "b"], ["a\nb", "b\n"]),
        (r"^a\$$", ["a$"], ["a", "a$$", r"a\$"]),
        ("^$", [""], ["x", "\n"]),
        ("^.*$", ["", "anything"], ["a\nb"]),
        (r"^a\\Q$", [r"a\Q"], ["a"]),
    ],
)
def test_a_pattern_matches_whole_texts_only(source: str, hits: list[str], misses: list[str]) -> None:
    pattern = compile_pattern(source)
    assert pattern.source == source
    assert [text for text in hits if not pattern.matches(text)] == []
    assert [text for text in misses if pattern.matches(text)] == []


@pytest.mark.parametrize(("source", "literal"), [("read", "read"), ("git_*", None), ("^read$", None)])
def test_only_a_literal_names_its_text(source: str, literal: str | None) -> None:
    assert compile_pattern(source).literal == literal


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "non-empty"),
        ("^", "ends with"),
        ("^db-writer-us-(east|west)-[0-9]+", "ends with"),
        ("^read*", "ends with"),
        ("^read$ ", "ends with"),
        (r"^read\$", "trailing"),  # the dollar is escaped: nothing closes the regex
        ("^read[$", "missing ]"),
        ("^(read$", r"missing \)"),
        ("^read)|(.*$", r"unexpected \)"),
        (r"^(a)\1$", "invalid escape"),
        ("^(?=a)a$", "invalid perl operator|perl"),
        ("^a{2000}$", "repetition"),
        (r"^\Qread$", "not supported"),
        (r"^a\C$", "not supported"),
        (r"^(\pL{100}){10}$", "too large"),
        ("a" * 513, "longer than 512"),
        ("a\ud800", "surrogate"),
        ("^\ud800$", "surrogate"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_with_the_reason(source: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as refusal:
        compile_pattern(source)
    assert refusal.value.code == "pattern.invalid"
    assert refusal.value.detail.isprintable()


def test_a_bad_regex_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Invalid):
        compile_pattern("^(unclosed$")
    assert capfd.readouterr().err == ""


def test_the_longest_pattern_is_accepted() -> None:
    assert compile_pattern("a" * 512).matches("a" * 512)
    assert compile_pattern("a*" * 256).matches("a" * 256)


@pytest.mark.parametrize("source", ["*a" * 250 + "*b", "^(a*)*(a|aa)*b$", "^(.*a){60}b$"])
def test_a_hostile_text_costs_linear_time(source: str) -> None:
    pattern = compile_pattern(source)
    started = time.process_time()
    assert not pattern.matches("a" * 20_000)
    assert time.process_time() - started < 2  # a backtracking engine would not end


def test_a_regex_refuses_a_text_it_cannot_see_and_others_decide_it() -> None:
    with pytest.raises(Invalid) as refusal:
        compile_pattern("^.*$").matches("a\ud800")
    assert refusal.value.code == "pattern.text_invalid"
    assert compile_pattern("a*").matches("a\ud800")
    assert not compile_pattern("a").matches("a\ud800")


def test_patterns_compare_by_source_and_survive_pickling() -> None:
    assert compile_pattern("git_*") == compile_pattern("git_*") != compile_pattern("git*")
    copy: Pattern = pickle.loads(pickle.dumps(compile_pattern("^git_.*$")))
    assert copy.matches("git_log")


@given(
    st.text(st.sampled_from("ab*.\n\\[^$é"), min_size=1, max_size=10).filter(lambda text: text[0] != "^"),
    ANY_TEXT,
)
def test_a_glob_agrees_with_a_plain_model(source: str, text: str) -> None:
    model = ".*".join(re.escape(part) for part in source.split("*"))
    assert compile_pattern(source).matches(text) == bool(re.fullmatch(model, text, re.DOTALL))


@given(ANY_TEXT.filter(lambda text: text and text[0] != "^" and "*" not in text and "\ud800" not in ascii(text)))
def test_a_text_without_special_characters_matches_itself(text: str) -> None:
    try:
        assert compile_pattern(text).literal == text
    except Invalid as refusal:
        assert "surrogate" in refusal.detail


def test_an_empty_set_matches_nothing() -> None:
    assert not PatternSet([]).matches("")
    assert not PatternSet([]).matches("anything")


def test_a_set_matches_what_any_pattern_matches() -> None:
    patterns = PatternSet(["read", "git_*", "^db-[0-9]$"])
    assert patterns.sources == ("read", "git_*", "^db-[0-9]$")
    assert all(patterns.matches(text) for text in ("read", "git_log", "db-1"))
    assert not any(patterns.matches(text) for text in ("reads", "git", "db-12", "", "read|git_log"))


def test_a_set_with_one_bad_pattern_is_refused_whole() -> None:
    with pytest.raises(Invalid, match="half-anchored"):
        PatternSet(["read", "^half-anchored"])


def test_one_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(Invalid) as refusal:
        PatternSet("git_*")
    assert refusal.value.code == "pattern.invalid"
