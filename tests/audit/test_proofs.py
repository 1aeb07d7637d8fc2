"""Proof documents, checked by two verifiers that share no code: both accept every good one and no changed one."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit import proofs, tree
from jitaccess.audit.checkpoint import Checkpoint, Signer, sign
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from tests.audit.second_verifier import merkle, proves

pytestmark = pytest.mark.pure

NIGHTLY = os.environ.get("JITACCESS_HYPOTHESIS") == "nightly"
SIGNER = Signer("jitaccess-test", bytes(range(32)))
OTHER = Signer("jitaccess-test", bytes(32))
ENTRIES = [{"uid": f"u{number}", "event": "call.authorized", "at": "now", "data": "{}"} for number in range(1200)]
LEAVES = [tree.leaf_hash(canonical(entry)) for entry in ENTRIES]
NODES = tree.nodes_of(LEAVES)


def head(size: int) -> Checkpoint:
    return Checkpoint("jitaccess-test/ledger", size, tree.root(NODES, size))


def note(size: int) -> str:
    return sign(head(size), [SIGNER])


def inclusion(index: int, size: int) -> dict:
    return proofs.inclusion(index + 1, ENTRIES[index], note(size), tree.inclusion_proof(NODES, index, size))


def consistency(old: int, new: int, *, signed: bool) -> dict:
    path = tree.consistency_proof(NODES, old, new)
    return proofs.consistency(head(old), note(old) if signed else None, note(new), path)


def refusal(document: dict | bytes, held: tuple[Checkpoint, ...] = (), signer: Signer = SIGNER) -> str:
    """The code with which ours refuses, "" when it does not; the second one agrees, as far as both are asked the same."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    try:
        proofs.check(raw, [signer.verifier], held)
        code = ""
    except Invalid as error:
        code = error.code
    if not held:
        assert proves(raw.decode(errors="replace"), signer.verifier.text) == (not code), code
    return code


def test_it_says_in_one_sentence_what_is_proven() -> None:
    sentence = proofs.check(json.dumps(inclusion(300, 700)).encode(), [SIGNER.verifier])
    assert sentence == (
        "entry 301 (call.authorized now u300) is in the ledger jitaccess-test/ledger as it was signed after 700 entries."
    )
    grown = proofs.check(json.dumps(consistency(257, 700, signed=True)).encode(), [SIGNER.verifier])
    assert "as it was signed after 700 entries, begins with the same 257 entries, which were signed as well" in grown
    unsigned = proofs.check(json.dumps(consistency(257, 700, signed=False)).encode(), [SIGNER.verifier])
    assert f"whose root is {head(257).root.hex()}" in unsigned
    assert "signed as well" not in unsigned


@given(st.integers(1, 1200), st.data())
def test_both_accept_every_good_proof_and_agree_on_the_roots(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    assert merkle(LEAVES[:size]) == head(size).root
    assert refusal(inclusion(index, size)) == ""
    assert refusal(consistency(index + 1, size, signed=data.draw(st.booleans()))) == ""


def changed_path(path: list[str], data: st.DataObject) -> list[str]:
    """One node changed, doubled, taken away, moved, or one too many."""
    place = data.draw(st.integers(0, max(len(path) - 1, 0)))
    how = data.draw(st.sampled_from(["add", "bit", "drop", "double", "swap"] if path else ["add"]))
    bit = data.draw(st.integers(0, 255))
    flipped = (int(path[place], 16) ^ 1 << bit).to_bytes(32, "big").hex() if path else ""
    other = data.draw(st.integers(0, max(len(path) - 1, 0)))
    result = [*path]
    match how:
        case "add":
            result.insert(data.draw(st.integers(0, len(path))), LEAVES[bit].hex())
        case "bit":
            result[place] = flipped
        case "drop":
            del result[place]
        case "double":
            result.insert(place, path[place])
        case "swap":
            result[place], result[other] = result[other], result[place]
    return result


@given(st.integers(1, 1200), st.data())
def test_both_refuse_every_change_of_a_path(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for document in (inclusion(index, size), consistency(index + 1, size, signed=False)):
        path = changed_path(document["path"], data)
        expected = "" if path == document["path"] else "proof.path"
        assert refusal(document | {"path": path}) == expected


@given(st.integers(2, 1200), st.data())
def test_both_refuse_another_place_another_entry_another_root_and_another_size(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = (index + data.draw(st.integers(1, size - 1))) % size
    good = inclusion(index, size)
    assert refusal(good | {"seq": other + 1}) == "proof.path"
    assert refusal(good | {"entry": ENTRIES[other]}) == "proof.path"
    assert refusal(good | {"entry": ENTRIES[index] | {"event": "call.denied"}}) == "proof.path"
    assert refusal(good | {"checkpoint": note(other + 1)}) in {"proof.path", "" if other + 1 == size else "proof.path"}
    grown = consistency(index + 1, size, signed=False)
    for old in ({"root": head(other + 1).root.hex()}, {"size": other + 1}):
        assert refusal(grown | {"old": grown["old"] | old}) == "proof.path"
    # The older checkpoint has to be the one that the document is about.
    assert refusal(grown | {"old": grown["old"] | {"checkpoint": note(other + 1)}}) == "proof.document"


@pytest.mark.parametrize(
    "document",
    [inclusion(2, 7), consistency(3, 7, signed=True), consistency(4, 7, signed=False)],
    ids=["inclusion", "consistency", "unsigned root"],
)
def test_both_refuse_every_flipped_bit_of_a_document(document: dict) -> None:
    raw = json.dumps(document, ensure_ascii=False).encode()
    assert refusal(raw) == ""
    # With two signatures to read each time: one bit of each byte, and all of them nightly.
    all_bits = NIGHTLY or document["proof"] == proofs.INCLUSION or document["old"]["checkpoint"] is None
    for place in range(len(raw)):
        for bit in range(8) if all_bits else [place % 8]:
            flipped = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
            assert refusal(flipped), (place, bit, flipped)


@pytest.mark.parametrize(
    "change",
    [
        {"proof": "jitaccess-inclusion-v2"},
        {"proof": "jitaccess-consistency-v1"},
        {"seq": 0},
        {"seq": -1},
        {"seq": True},
        {"seq": 3.0},
        {"seq": "3"},
        {"seq": 2**70},
        {"entry": None},
        {"entry": []},
        {"path": "ab"},
        {"path": [None]},
        {"path": ["AB" * 32]},
        {"path": ["ab" * 31]},
        {"path": ["ab" * 32] * 65},
        {"checkpoint": None},
        {"checkpoint": ""},
        {"comment": "this was approved by the auditor"},
    ],
    ids=str,
)
def test_what_is_no_proof_document_is_refused(change: dict) -> None:
    assert refusal(inclusion(2, 7)) == ""
    assert refusal(inclusion(2, 7) | change) in {"proof.document", "checkpoint.invalid"}


def test_a_proof_signed_by_another_key_is_refused_whatever_it_says() -> None:
    for document in (inclusion(2, 7), consistency(3, 7, signed=True)):
        assert refusal(document, signer=OTHER) == "checkpoint.invalid"
    forged = sign(head(7), [OTHER])
    assert refusal(inclusion(2, 7) | {"checkpoint": forged}) == "checkpoint.invalid"
    grown = consistency(3, 7, signed=True)
    assert refusal(grown | {"old": grown["old"] | {"checkpoint": sign(head(3), [OTHER])}}) == "checkpoint.invalid"


def test_with_a_checkpoint_of_ones_own_the_proof_has_to_be_about_that_one() -> None:
    fork = Checkpoint("jitaccess-test/ledger", 700, b"\x07" * 32)
    assert refusal(inclusion(2, 700), (head(700),)) == ""
    assert refusal(inclusion(2, 700), (head(257), head(700))) == ""
    assert refusal(inclusion(2, 700), (head(257),)) == "proof.held"
    assert refusal(inclusion(2, 700), (fork,)) == "proof.held"
    assert refusal(inclusion(2, 700), (head(700), fork)) == "proof.held"
    for signed in (True, False):
        assert refusal(consistency(257, 700, signed=signed), (head(257),)) == ""
        assert refusal(consistency(257, 700, signed=signed), (head(256),)) == "proof.held"
    held = proofs.check(json.dumps(consistency(257, 700, signed=False)).encode(), [SIGNER.verifier], [head(257)])
    assert "which were signed as well" in held
    # A root that nobody signed cannot be put in place of the one that was.
    forged = consistency(257, 700, signed=False)
    forged["old"] = forged["old"] | {"root": "07" * 32}
    assert refusal(forged, (head(257),)) == "proof.held"


def test_text_in_an_entry_cannot_act_on_the_screen_of_whoever_checks() -> None:
    nasty = {"uid": "\x1b[2J", "event": "\u202eevil", "at": "x" * 500}
    leaves = [tree.leaf_hash(canonical(nasty))]
    signed = sign(Checkpoint("jitaccess-test/ledger", 1, leaves[0]), [SIGNER])
    document = json.dumps(proofs.inclusion(1, nasty, signed, [])).encode()
    sentence = proofs.check(document, [SIGNER.verifier])
    assert sentence.isprintable()
    assert len(sentence) < 400
