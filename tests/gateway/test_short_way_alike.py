"""Whatever is called with, both ways make the same call of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jitaccess.gateway.calling.call import SMALL
from jitaccess.gateway.http import SHORT_BODY
from jitaccess.kernel import strictjson
from tests.gateway.harness import eventually, settled
from tests.gateway.shortly import World, alike, call, entries, received, short

__all__ = ["short"]
pytestmark = pytest.mark.django_db(transaction=True)

TEXT = st.text(max_size=40) | st.sampled_from(
    ["password", "", "\x00", "\u2028", "\U0001f600", "\ud800", "\ud83d\ude00", "x" * 600, "ä" * 600]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)
SIZES = st.sampled_from([SMALL - 40, SMALL, SMALL + 40, 15_000, 17_000])
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=6) | SIZES.map(lambda size: {"big": "x" * size})
IDS = st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
NUMBERS = itertools.count(1)
NAMES = st.sampled_from(["git_log", "git_status"])


def is_small(body: bytes) -> bool:
    arguments = json.loads(body)["params"]["arguments"]
    return len(body) <= SHORT_BODY and len(strictjson.encode_read(arguments)) <= SMALL


def test_both_ways_are_the_same_call(short: World) -> None:
    quick, slow = short.line(), short.line()
    short.ready(quick)

    # Not made smaller: each takes three calls.
    @settings(max_examples=60, phases=[Phase.generate])
    @given(name=NAMES, arguments=ARGUMENTS, number=IDS, escaped=st.booleans())
    def compare(name: str, arguments: dict[str, Any], number: Any, escaped: bool) -> None:
        message = call(name, number)
        message["params"]["arguments"] = arguments
        sent = json.dumps(message, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        quick.ask(quick.request(sent, mcp_name=name))  # from here on its head is known
        eventually(settled)
        short.upstream.seen.clear()
        short.served.gateway.limits.repeats._calls.clear()
        short.ways.taken.clear()
        before = len(entries())
        long = slow.ask(slow.request(sent, mcp_name=name, x_long=str(next(NUMBERS))))
        eventually(settled)
        answer = quick.ask(quick.request(sent, mcp_name=name))
        eventually(settled)
        alike(answer, long)
        made = answer.status == 200
        assert len(short.ways.taken) == (made and is_small(sent))
        calls = entries()[before:]
        assert len(calls) == 2 * made
        assert calls[:1] == calls[1:]
        seen = [received(one) for one in short.upstream.calls()]
        assert len(seen) == 2 * made
        assert seen[:1] == seen[1:]

    compare()
