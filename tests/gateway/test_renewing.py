"""A gateway reads its whole policy anew from time to time, beside its other work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from jitaccess.gateway import core
from jitaccess.gateway.models import GatewayInstance
from jitaccess.policy.models import RoleBinding
from jitaccess.policy.snapshots import SnapshotStore
from tests.cast import Cast
from tests.gateway.harness import Served, eventually
from tests.past_triggers import past_the_triggers

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(core, "RENEW_SECONDS", 0.1)


def test_a_right_that_went_without_a_word_is_refused_once_policy_was_read_anew(
    cast: Cast, start: Callable[..., Served]
) -> None:
    with start().client(cast) as agent:
        ask = {"name": "git_log", "arguments": {}}
        assert "content" in agent.call("git_log")
        past_the_triggers(lambda: RoleBinding.objects.all().delete())
        assert eventually(lambda: agent.ask("tools/call", ask).get("error", {}).get("code") == -32602)


def test_a_lease_is_renewed_while_policy_is_read_for_long_and_a_stop_does_not_wait_for_it(
    cast: Cast, start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, ended = threading.Event(), threading.Event()

    def slow(_: SnapshotStore, over: threading.Event) -> None:
        reading.set()
        assert over.wait(30), "nobody says that it is over"
        ended.set()

    monkeypatch.setattr(SnapshotStore, "renew", slow)
    served = start()
    assert reading.wait(10)
    mine = GatewayInstance.objects.get(pk=served.gateway.instance)
    before = mine.lease_until

    def renewed() -> bool:
        mine.refresh_from_db()
        return mine.lease_until > before

    assert eventually(renewed)
    served.stop()
    assert ended.wait(10)
