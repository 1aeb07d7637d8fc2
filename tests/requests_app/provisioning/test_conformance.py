"""Each provisioner of ours passes the kit that is published for others; and the kit notices those that do not comply."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jitaccess.egress.addresses import Allowance
from requests_app.provisioning import kit
from requests_app.provisioning.example import Folder
from requests_app.provisioning.protocol import Effect, Entitlement, Found, Presence, Provisioner
from requests_app.provisioning.webhook import Webhook
from tests.requests_app.provisioning.receiver import SECRET, Receiver, receiving
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.pure

LOOPBACK = Allowance.parse(["127.0.0.1"])


class FolderBench:
    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> Provisioner:
        return Folder(self.root)

    def plant_foreign(self) -> None:
        self.root.mkdir()
        (self.root / "README.json").write_text("mine")

    def foreign_is_there(self) -> bool:
        return (self.root / "README.json").read_text() == "mine"

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """A file in its place: nobody can list, write or remove, root included."""
        away = self.root.with_name("away")
        self.root.rename(away)
        self.root.write_text("")
        yield
        self.root.unlink()
        away.rename(self.root)

    def refused(self) -> Entitlement:
        return kit.effect(name="tool:" + "n" * 3000).entitlement


class WebhookBench:
    def __init__(self, receiver: Receiver, *, how: int | str = 503) -> None:
        self.receiver, self.how = receiver, how

    def make(self) -> Provisioner:
        return Webhook(url=self.receiver.url, secrets=(SECRET,), allowance=LOOPBACK, seconds=0.3)

    def plant_foreign(self) -> None:
        self.receiver.foreign = ["bob"]

    def foreign_is_there(self) -> bool:
        return self.receiver.foreign == ["bob"]

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.receiver.answer = self.how
        yield
        self.receiver.answer = None

    def refused(self) -> Entitlement:
        return kit.effect(name="role:forbidden").entitlement


class ShelfBench(Shelf):
    def make(self) -> Provisioner:
        return self

    def plant_foreign(self) -> None:
        self.foreign = ["bob"]

    def foreign_is_there(self) -> bool:
        return self.foreign == ["bob"]

    def refused(self) -> Entitlement:
        return kit.effect(name="role:forbidden").entitlement


def named(check: Any) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", kit.CHECKS, ids=named)
def test_the_folder_conforms(check: Callable[[kit.Bench], None], tmp_path: Path) -> None:
    check(FolderBench(tmp_path / "shelf"))


@pytest.mark.parametrize("check", kit.CHECKS, ids=named)
def test_the_webhook_conforms(check: Callable[[kit.Bench], None]) -> None:
    with receiving() as receiver:
        check(WebhookBench(receiver))


def test_a_receiver_that_never_answers_is_down_too() -> None:
    with receiving() as receiver:
        kit.while_it_is_down_it_says_so(WebhookBench(receiver, how="silence"))


def test_what_other_tests_use_conforms() -> None:
    kit.check(ShelfBench)


class Counting(ShelfBench):
    """Counts grants, so that a repeated one has to be taken back twice."""

    times = 0

    def grant(self, effect: Effect) -> None:
        super().grant(effect)
        self.times += 1

    def revoke(self, effect: Effect) -> None:
        self.times -= 1
        if self.times <= 0:
            super().revoke(effect)


class Sweeping(ShelfBench):
    """Takes everything away that looks alike."""

    def revoke(self, effect: Effect) -> None:
        super().revoke(effect)
        self.there = {uid: name for uid, name in self.there.items() if name != effect.entitlement.name}


class Optimistic(ShelfBench):
    """Takes no answer for an absence."""

    def verify(self, effect: Effect) -> Presence:
        return Presence.ABSENT if self.trouble else super().verify(effect)


class Claiming(ShelfBench):
    """Says that what others made is its own."""

    def list(self) -> Iterator[Found]:
        yield from super().list()
        yield from (Found(id=kit.effect(99).id, name=name) for name in self.foreign)


class Deaf(ShelfBench):
    """Sorts out repetitions by the id of the effect, where it should be the attempt."""

    def grant(self, effect: Effect) -> None:
        if ("grant", effect.id.hex) not in [(what, attempt.split("-")[0]) for what, attempt in self.heard]:
            super().grant(effect)


class Late(ShelfBench):
    def _touch(self, what: str, effect: Effect) -> None:
        self.heard.append((what, effect.attempt))
        if self.trouble:
            raise self.trouble


class Forgetful(ShelfBench):
    """Knows only what it has made itself."""

    def make(self) -> Provisioner:
        return ShelfBench()


@pytest.mark.parametrize(
    ("broken", "noticed_by"),
    [
        (Counting, kit.granting_again_changes_nothing),
        (Sweeping, kit.one_does_not_take_from_another),
        (Optimistic, kit.while_it_is_down_it_says_so),
        (Claiming, kit.what_is_not_ours_stays),
        (Deaf, kit.granting_anew_after_a_revoke_works),
        (Late, kit.a_worker_that_comes_too_late_does_nothing),
        (Forgetful, kit.a_worker_may_die_at_any_point),
    ],
    ids=named,
)
def test_the_kit_notices(broken: Callable[[], kit.Bench], noticed_by: Callable[[kit.Bench], None]) -> None:
    with pytest.raises(AssertionError):
        noticed_by(broken())
