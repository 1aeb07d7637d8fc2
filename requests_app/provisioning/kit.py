"""What every provisioner must do, as checks that anybody can run against theirs. Needs no database and no pytest.

Write a Bench, then:

    @pytest.mark.parametrize("check", kit.CHECKS, ids=lambda check: check.__name__)
    def test_my_provisioner(check):
        check(MyBench())

Each check wants a fresh bench, leaves nothing running, and fails with an AssertionError that says what is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from uuid import UUID, uuid4

from .protocol import CALL_SECONDS, Effect, Entitlement, Permanent, Presence, Provisioner, Retryable

Step = Callable[[Provisioner, Effect], object]


class Bench(Protocol):
    """A target that is there for one check, and what can be done to it."""

    def make(self) -> Provisioner:
        """A new provisioner of the same target, as a process that has just started would have."""

    def plant_foreign(self) -> None:
        """Put something there that jitaccess has not made."""

    def foreign_is_there(self) -> bool:
        """Whether that is still as it was."""

    def down(self) -> AbstractContextManager[None]:
        """While it lasts the target does not answer, or answers nothing useful."""

    def refused(self) -> Entitlement | None:
        """An entitlement that can never be given here; None when there is none."""


def effect(number: int = 1, *, turn: int = 1, uid: UUID | None = None, name: str = "tool:git/git_commit") -> Effect:
    """An effect for an agent of its own; the same `number` is the same agent."""
    uid = uid or UUID(int=(0x0190_0000_0000_7000_8000 << 48) + number)
    subject = Entitlement(name=name, agent=UUID(int=number), agent_name=f"agent-{number}")
    return Effect(id=uid, entitlement=subject, attempt=f"{uid.hex}-{turn}")


def what_it_is_fits_on_a_line(bench: Bench) -> None:
    said = bench.make().describe()
    assert said, "describe() says nothing"
    assert said.isprintable(), "describe() is not one printable line"


def what_was_granted_is_there(bench: Bench) -> None:
    one, provisioner = effect(), bench.make()
    _is(provisioner, one, Presence.ABSENT, "before anything was granted")
    provisioner.validate(one.entitlement)
    provisioner.grant(one)
    _is(provisioner, one, Presence.PRESENT, "after grant()")
    _lists(provisioner, one)


def granting_again_changes_nothing(bench: Bench) -> None:
    one, provisioner = effect(), bench.make()
    for _ in range(3):
        provisioner.grant(one)
    _is(provisioner, one, Presence.PRESENT, "after three times grant()")
    _lists(provisioner, one)
    provisioner.revoke(one)
    _is(provisioner, one, Presence.ABSENT, "after three times grant() and once revoke(): states are no counters")


def what_was_revoked_is_gone(bench: Bench) -> None:
    one, provisioner = effect(), bench.make()
    provisioner.grant(one)
    for _ in range(2):
        provisioner.revoke(effect(turn=2))
        _is(provisioner, one, Presence.ABSENT, "after revoke()")
        _lists(provisioner)


def revoking_what_was_never_granted_is_fine(bench: Bench) -> None:
    one, provisioner = effect(), bench.make()
    provisioner.revoke(one)
    _is(provisioner, one, Presence.ABSENT, "after revoke() of what was never there")


def granting_anew_after_a_revoke_works(bench: Bench) -> None:
    provisioner = bench.make()
    provisioner.grant(effect(turn=1))
    provisioner.revoke(effect(turn=2))
    provisioner.grant(effect(turn=3))
    _is(provisioner, effect(turn=3), Presence.PRESENT, "granted, revoked and granted again, with the same id")
    provisioner.revoke(effect(turn=4))
    _is(provisioner, effect(turn=4), Presence.ABSENT, "revoked for the second time")


def one_does_not_take_from_another(bench: Bench) -> None:
    """Same entitlement, other subject; and same subject, other entitlement."""
    first, other = effect(1), effect(2)
    second = effect(1, uid=uuid4(), name="role:report-writer")
    provisioner = bench.make()
    for one in (first, other, second):
        provisioner.grant(one)
    _lists(provisioner, first, other, second)
    provisioner.revoke(first)
    _is(provisioner, first, Presence.ABSENT, "the one that was revoked")
    for one in (other, second):
        _is(provisioner, one, Presence.PRESENT, "one that was not revoked")
    _lists(provisioner, other, second)


def what_is_not_ours_stays(bench: Bench) -> None:
    bench.plant_foreign()
    one, provisioner = effect(), bench.make()
    _lists(provisioner)
    provisioner.grant(one)
    _lists(provisioner, one)
    provisioner.revoke(one)
    assert bench.foreign_is_there(), "what somebody else had made is gone or changed"


def looking_changes_nothing(bench: Bench) -> None:
    one, never, provisioner = effect(1), effect(2), bench.make()
    provisioner.grant(one)
    for _ in range(2):
        _is(provisioner, one, Presence.PRESENT, "however often it is looked at")
        _is(provisioner, never, Presence.ABSENT, "however often it is looked at")
        _lists(provisioner, one)


def a_worker_may_die_at_any_point(bench: Bench) -> None:
    """Everything a new process knows is the effect."""
    one = effect()
    bench.make().revoke(one)  # intent to grant on record, died before it was sent, not wanted any more
    _is(bench.make(), one, Presence.ABSENT, "died before the effect")
    bench.make().grant(one)  # died after it was sent, before that was written down: the same again
    bench.make().grant(one)
    _is(bench.make(), one, Presence.PRESENT, "died after the effect, and came again")
    _lists(bench.make(), one)
    bench.make().revoke(effect(turn=2))
    bench.make().revoke(effect(turn=2))
    _is(bench.make(), one, Presence.ABSENT, "died after the revoke, and came again")


def a_worker_that_comes_too_late_does_nothing(bench: Bench) -> None:
    one, provisioner = effect(), bench.make()
    late = Effect(id=one.id, entitlement=one.entitlement, attempt=one.attempt, not_after=time.monotonic() - 1)
    with _raises(Retryable, "grant() after its time"):
        provisioner.grant(late)
    _is(provisioner, one, Presence.ABSENT, "grant() after its time")
    provisioner.grant(one)
    with _raises(Retryable, "revoke() after its time"):
        provisioner.revoke(late)
    _is(provisioner, one, Presence.PRESENT, "revoke() after its time")


def while_it_is_down_it_says_so(bench: Bench) -> None:
    """And never that something is gone: that would end the attempts to take it away."""
    one, provisioner = effect(), bench.make()
    provisioner.grant(one)
    steps: dict[str, Step] = {
        "grant()": lambda made, what: made.grant(what),
        "revoke()": lambda made, what: made.revoke(what),
        "list()": lambda made, _: list(made.list()),
    }
    with bench.down():
        for name, step in steps.items():
            begun = time.monotonic()
            with _raises(Retryable, f"{name} while the target is down"):
                step(bench.make(), one)
            assert time.monotonic() - begun < CALL_SECONDS, f"{name} took longer than {CALL_SECONDS:g} seconds"
        try:
            found = bench.make().verify(one)
        except Retryable:
            found = Presence.UNKNOWN
        assert found is Presence.UNKNOWN, f"verify() says {found} while the target is down"
    provisioner.revoke(one)
    _is(provisioner, one, Presence.ABSENT, "when it is up again")


def what_can_never_be_is_refused_for_good(bench: Bench) -> None:
    never = bench.refused()
    if never is None:
        return
    provisioner, uid = bench.make(), uuid4()
    with _raises(Permanent, "validate() or grant() of what can never be given"):
        provisioner.validate(never)
        provisioner.grant(Effect(id=uid, entitlement=never, attempt=f"{uid.hex}-1"))
    _lists(provisioner)


def names_are_only_names(bench: Bench) -> None:
    """They are other people's text: nothing in them reaches beyond the effect's own id."""
    names = ("tool:a/../../../etc/passwd", "role:x\n\r\x00\u202e", "tool:" + "n" * 900, "role:' OR 1=1 --")
    provisioner = bench.make()
    for number, name in enumerate(names, 10):
        one = effect(number, name=name)
        provisioner.grant(one)
        _lists(provisioner, one)
        provisioner.revoke(one)
        _is(provisioner, one, Presence.ABSENT, f"the entitlement {name[:30]!r}")


CHECKS: tuple[Callable[[Bench], None], ...] = (
    what_it_is_fits_on_a_line,
    what_was_granted_is_there,
    granting_again_changes_nothing,
    what_was_revoked_is_gone,
    revoking_what_was_never_granted_is_fine,
    granting_anew_after_a_revoke_works,
    one_does_not_take_from_another,
    what_is_not_ours_stays,
    looking_changes_nothing,
    a_worker_may_die_at_any_point,
    a_worker_that_comes_too_late_does_nothing,
    while_it_is_down_it_says_so,
    what_can_never_be_is_refused_for_good,
    names_are_only_names,
)


def check(make_bench: Callable[[], Bench]) -> None:
    """All of it, a fresh bench each."""
    for one in CHECKS:
        one(make_bench())


def _is(provisioner: Provisioner, one: Effect, presence: Presence, when: str) -> None:
    found = provisioner.verify(one)
    assert found is presence, f"verify() says {found} and should say {presence}: {when}"


def _lists(provisioner: Provisioner, *ours: Effect) -> None:
    marked = sorted(found.id for found in provisioner.list() if found.id is not None)
    assert marked == sorted(one.id for one in ours), f"list() shows {marked} as ours"


@contextmanager
def _raises(kind: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{what} must raise {kind.__name__}")
