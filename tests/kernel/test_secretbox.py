from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.secretbox import KeyRing, generate_key

# Fixed, because they are part of test names, which must be the same in every worker.
OLD = "k1:" + base64.b64encode(bytes(range(32))).decode()
NEW = "k2:" + base64.b64encode(bytes(range(32, 64))).decode()
RING = KeyRing.from_text(f"{NEW},{OLD}")


def _refused(ring: KeyRing, sealed: str, context: str = "ctx") -> None:
    with pytest.raises(Invalid) as refusal:
        ring.open(sealed, context=context)
    assert refusal.value.code == "sealed.invalid"
    assert refusal.value.__cause__ is None


@given(st.binary(max_size=100), st.text(st.characters(codec=None), max_size=20))
def test_what_was_sealed_opens_under_its_context(plaintext: bytes, context: str) -> None:
    sealed = RING.seal(plaintext, context=context)
    assert re.fullmatch(r"k2\.[A-Za-z0-9_-]+", sealed)
    assert RING.open(sealed, context=context) == plaintext
    _refused(RING, sealed, context + "x")


def test_sealing_twice_gives_two_texts() -> None:
    assert RING.seal(b"x", context="ctx") != RING.seal(b"x", context="ctx")


def test_the_first_key_seals_and_every_key_opens() -> None:
    before = KeyRing.from_text(OLD)
    sealed = before.seal(b"secret", context="ctx")
    assert sealed.startswith("k1.")
    assert RING.open(sealed, context="ctx") == b"secret"
    _refused(before, RING.seal(b"secret", context="ctx"))
    _refused(KeyRing.from_text(NEW), sealed)


def test_a_key_id_is_bound_even_when_two_ids_share_a_key() -> None:
    key = OLD.partition(":")[2]
    ring = KeyRing.from_text(f"a:{key},b:{key}")
    sealed = ring.seal(b"x", context="ctx")
    _refused(ring, "b" + sealed[1:])


def test_any_changed_character_is_refused() -> None:
    sealed = RING.seal(b"secret", context="ctx")
    for index, char in enumerate(sealed):
        _refused(RING, sealed[:index] + ("A" if char != "A" else "B") + sealed[index + 1 :])
        _refused(RING, sealed[:index])
        _refused(RING, sealed[:index] + "\n" + sealed[index:])


def test_a_sealed_text_has_one_spelling() -> None:
    sealed = RING.seal(b"", context="ctx")  # 28 bytes: the last character has unused bits
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    opened = []
    for char in alphabet:
        try:
            RING.open(sealed[:-1] + char, context="ctx")
            opened.append(char)
        except Invalid:
            continue
    assert opened == [sealed[-1]]
    for variant in (sealed + "=", sealed + "==", sealed + " ", sealed + "A", sealed.replace(".", "..")):
        _refused(RING, variant)


@given(st.text(st.characters(codec=None), max_size=60) | st.text("k2.A-_=", max_size=60))
def test_arbitrary_text_is_refused_and_nothing_else_happens(text: str) -> None:
    _refused(RING, text)
    _refused(RING, "k2." + text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "k1",
        "k1:",
        ":" + OLD.partition(":")[2],
        f"{OLD},",
        f"{OLD},{OLD}",
        f"bad id:{OLD.partition(':')[2]}",
        "k1:AAECAwQFBgcICQ!",
        "k1:" + base64.b64encode(b"x" * 16).decode(),
        "k1:" + base64.b64encode(b"x" * 33).decode(),
        "\ud800:\ud800",
    ],
)
def test_a_key_ring_that_is_wrong_is_refused_without_quoting_a_key(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        KeyRing.from_text(text)
    assert refusal.value.code == "keyring.invalid"
    encoded = text.partition(":")[2]
    assert len(encoded) < 9 or encoded[:8] not in refusal.value.detail


def test_spaces_and_line_ends_around_entries_are_ignored() -> None:
    ring = KeyRing.from_text(f" {NEW} ,\n{OLD}\n")
    assert ring.open(RING.seal(b"x", context="ctx"), context="ctx") == b"x"


def test_generated_keys_differ_and_need_a_proper_id() -> None:
    first, second = generate_key("k"), generate_key("k")
    assert first != second
    sealed = KeyRing.from_text(first).seal(b"x", context="ctx")
    assert KeyRing.from_text(first).open(sealed, context="ctx") == b"x"
    _refused(KeyRing.from_text(second), sealed)
    with pytest.raises(Invalid):
        generate_key("k:1")


def test_a_key_ring_does_not_show_its_keys() -> None:
    assert repr(RING) == "KeyRing()"


def test_what_is_derived_is_one_secret_a_key_and_a_purpose() -> None:
    derived = RING.derived("signing")
    assert len(derived) == 2
    assert [len(one) for one in derived] == [32, 32]
    assert derived == KeyRing.from_text(f"{NEW},{OLD}").derived("signing")
    raw = [base64.b64decode(entry.partition(":")[2]) for entry in (NEW, OLD)]
    assert len({*derived, *RING.derived("something else"), *raw}) == 6
