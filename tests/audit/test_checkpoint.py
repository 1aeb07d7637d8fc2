from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit.checkpoint import Checkpoint, Signer, Verifier, read, sign
from jitaccess.kernel.errors import Invalid

SIGNER = Signer("example.test/log", bytes(range(32)))
OTHER = Signer("example.test/log", bytes(32))
HEAD = Checkpoint("example.test/log", 7, b"\x05" * 32)


def test_a_signed_checkpoint_reads_back() -> None:
    note = sign(HEAD, [SIGNER])
    assert note.startswith(
        "example.test/log\n7\n" + base64.b64encode(b"\x05" * 32).decode() + "\n\n— example.test/log "
    )
    assert read(note, [SIGNER.verifier]) == HEAD


def test_a_known_verifier_key_reads_back_and_a_damaged_one_does_not() -> None:
    # The key of the Go checksum database, as published: sum.golang.org.
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert Verifier.parse(text).text == text
    for damaged in (
        text.replace("033d", "033e"),
        text[:-1],
        text.replace("+Ac", "+Bc"),
        "x",
        "",
        text.replace("sum", "Sum"),
    ):
        with pytest.raises(Invalid):
            Verifier.parse(damaged)


def test_while_keys_are_rotated_either_key_is_enough_and_a_bad_one_is_too_much() -> None:
    note = sign(HEAD, [SIGNER, OTHER])
    assert read(note, [SIGNER.verifier]) == read(note, [OTHER.verifier]) == HEAD
    body, _, signatures = note.rpartition("\n\n")
    first, second = signatures.splitlines()
    swapped = second.rsplit(" ", 1)[1][:-8] + "AAAAAAA="
    with pytest.raises(Invalid):
        read(f"{body}\n\n{first}\n{second.rsplit(' ', 1)[0]} {swapped}\n", [SIGNER.verifier, OTHER.verifier])


def test_a_checkpoint_signed_by_nobody_known_is_refused() -> None:
    with pytest.raises(Invalid, match="none of the known keys"):
        read(sign(HEAD, [OTHER]), [SIGNER.verifier])
    with pytest.raises(Invalid):
        read(sign(HEAD, []), [SIGNER.verifier])


@given(st.data())
def test_no_changed_character_of_a_checkpoint_is_accepted(data: st.DataObject) -> None:
    note = sign(HEAD, [SIGNER])
    place = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(exclude_characters=note[place], codec="utf-8"))
    changed = note[:place] + other + note[place + 1 :]
    with pytest.raises(Invalid):
        read(changed, [SIGNER.verifier])
