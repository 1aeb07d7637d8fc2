from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
import time
import uuid

import pytest

from jitaccess.kernel import ids
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError, NotFound, Unavailable
from jitaccess.kernel.ids import new_token, token_hash, uuid7


@pytest.mark.parametrize("kind", [Invalid, Forbidden, NotFound, Conflict, Unavailable])
def test_an_error_carries_code_detail_and_params_and_survives_pickling(kind: type[JitAccessError]) -> None:
    error = pickle.loads(pickle.dumps(kind("request.already_decided", "Somebody was faster.", by="ann")))
    assert type(error) is kind
    assert (error.code, error.detail, error.params) == (
        "request.already_decided",
        "Somebody was faster.",
        {"by": "ann"},
    )
    assert str(error) == "Somebody was faster."


def test_a_uuid7_has_the_version_variant_and_time_of_the_rfc() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    # Earlier tests cannot have pushed the clock ahead: only 2^41 ids within a millisecond would.
    assert before <= made.int >> 80 <= after


def test_uuid7_increases_strictly_within_one_thread() -> None:
    made = [uuid7() for _ in range(5_000)]
    assert made == sorted(set(made))
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_uuid7_is_unique_and_ordered_per_thread_when_threads_race() -> None:
    start = threading.Barrier(4)
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(mine: list[uuid.UUID]) -> None:
        start.wait()
        mine.extend(uuid7() for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 8_000


def test_uuid7_keeps_its_order_when_the_wall_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert uuid7() > first


def test_uuid7_moves_to_the_next_millisecond_when_the_counter_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ids._Clock()
    monkeypatch.setattr(ids, "_clock", clock)
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    first = uuid7()
    clock.counter = 2**42 - 1
    second = uuid7()
    assert (first.int >> 80, second.int >> 80) == (5, 6)
    assert second.version == 7


FORK = """
import os, signal
from jitaccess.kernel import ids
ids.uuid7()
reader, writer = os.pipe()
with ids._clock.lock:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os.write(writer, str(ids.uuid7()).encode())
        os._exit(0)
os.close(writer)
theirs = os.read(reader, 64).decode()
os.waitpid(child, 0)
print(theirs, ids.uuid7())
"""


def test_a_forked_child_makes_ids_of_its_own_even_if_the_lock_was_held() -> None:
    # In a process of its own: forking a test worker that has threads is what newer Pythons warn about.
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=60)
    theirs, ours = done.stdout.split()
    assert uuid.UUID(theirs).version == 7
    assert theirs != ours


def test_a_token_has_its_prefix_and_256_random_bits() -> None:
    tokens = {new_token("jat") for _ in range(200)}
    assert len(tokens) == 200
    assert all(re.fullmatch(r"jat_[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_a_token_hash_is_sha256_in_hex_and_takes_any_text() -> None:
    assert token_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert token_hash("\ud800") != token_hash("?")
