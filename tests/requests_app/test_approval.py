"""The count of approvals, by itself: seats, stages, escalations, fallback."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.policy.approval.plan import Group, LaterGroups, Plan
from requests_app.approval import People, Tally, Vote, lacking, seat_of, tally
from requests_app.lifecycle import DecisionVerdict

pytestmark = pytest.mark.pure

ANNA, BERT, CARL, DORA, OLGA = (UUID(int=number) for number in range(1, 6))
YES, NO = DecisionVerdict.APPROVE, DecisionVerdict.DENY


def group(name: str, quorum: int = 1, *refs: str) -> Group:
    return Group(name, name, quorum, refs or (f"team:{name}",))


def plan(
    *stages: tuple[Group, ...],
    escalations: tuple[LaterGroups, ...] = (),
    fallback: Group | None = None,
    deny_threshold: int = 1,
) -> Plan:
    return Plan(
        policy="p", version=1, rule="r", auto_approve=False, stages=stages, escalations=escalations,
        fallback=fallback, deny_threshold=deny_threshold, channels=frozenset({"web"}), step_up=False, reminders=(),
        cool_down=0,
    )  # fmt: skip


def people(
    members: dict[str, Collection[UUID]],
    *,
    self_: Collection[UUID] = (),
    delegates: Collection[tuple[UUID, UUID]] = (),
    away: Collection[UUID] = (),
) -> People:
    refs = {f"team:{name}": frozenset(some) for name, some in members.items()}
    return People(refs, frozenset(self_), frozenset(delegates), frozenset(away))


def vote(person: UUID, stage: int = 0, *, verdict: DecisionVerdict = YES, of: UUID | None = None) -> Vote:
    return Vote(person, of, stage, verdict)


def count(asked: Plan, votes: Collection[Vote], around: People, waited: float = 0) -> Tally:
    return tally(asked, votes, around, waited=waited)


def test_one_person_counts_once_however_often_they_approve() -> None:
    asked, around = plan((group("a", 2),)), people({"a": [ANNA, BERT]})
    assert not count(asked, [vote(ANNA), vote(ANNA)], around).approved
    assert count(asked, [vote(ANNA), vote(BERT)], around).approved


def test_more_approvals_than_needed_are_enough() -> None:
    assert count(plan((group("a", 1),)), [vote(ANNA), vote(BERT)], people({"a": [ANNA, BERT]})).approved


def test_only_members_count_and_self_never() -> None:
    asked = plan((group("a", 2),))
    assert not count(asked, [vote(ANNA), vote(CARL)], people({"a": [ANNA, BERT]})).approved
    assert not count(asked, [vote(ANNA), vote(BERT)], people({"a": [ANNA, BERT]}, self_=[ANNA])).approved


def test_every_group_of_a_stage_must_be_met() -> None:
    asked, around = plan((group("a"), group("b", 2))), people({"a": [ANNA], "b": [ANNA, BERT]})
    assert not count(asked, [vote(ANNA)], around).approved
    assert count(asked, [vote(ANNA), vote(BERT)], around).approved, "one person may be in both"


def test_stages_come_one_after_the_other_and_a_no_longer_valid_one_comes_back() -> None:
    asked = plan((group("a"),), (group("b"),))
    around = people({"a": [ANNA], "b": [BERT]})
    assert count(asked, [], around).seats == {ANNA}
    early = count(asked, [vote(BERT, 1)], around)
    assert (early.stage, early.approved) == (0, False), "an approval of a later stage does not jump the queue"
    first = count(asked, [vote(ANNA)], around)
    assert (first.stage, first.seats, first.approved) == (1, {BERT}, False)
    assert count(asked, [vote(ANNA), vote(BERT, 1)], around).approved
    left = people({"a": [], "b": [BERT]})
    assert (count(asked, [vote(ANNA), vote(BERT, 1)], left).approved, count(asked, [vote(ANNA)], left).stage) == (
        False,
        0,
    )


def test_nothing_is_approved_by_nobody() -> None:
    assert not count(plan((group("a", 0),)), [], people({"a": []})).approved
    assert not count(plan(), [], people({})).approved
    assert not count(plan((group("a"),)), [vote(ANNA)], people({})).approved, "a group that is gone has no members"


def test_a_delegate_sits_on_the_seat_of_who_delegated() -> None:
    asked = plan((group("a", 2),))
    around = people({"a": [ANNA, BERT]}, delegates=[(ANNA, CARL)])
    assert seat_of(CARL, {ANNA, BERT}, around) == ANNA
    assert not count(asked, [vote(CARL, of=ANNA), vote(ANNA)], around).approved, "one seat, two people"
    assert count(asked, [vote(CARL, of=ANNA), vote(BERT)], around).approved
    assert not count(asked, [vote(CARL, of=ANNA), vote(BERT)], people({"a": [ANNA, BERT]})).approved, "it has ended"


def test_a_delegate_of_self_and_self_as_a_delegate_count_nothing() -> None:
    around = people({"a": [ANNA, OLGA]}, self_=[OLGA], delegates=[(OLGA, CARL), (ANNA, OLGA)])
    asked = plan((group("a"),))
    assert seat_of(CARL, count(asked, [], around).seats, around) is None
    assert seat_of(OLGA, count(asked, [], around).seats, around) is None
    assert not count(asked, [vote(CARL, of=OLGA), vote(OLGA, of=ANNA), vote(OLGA)], around).approved


def test_a_delegate_takes_a_seat_that_is_free() -> None:
    around = people({"a": [ANNA, BERT]}, delegates=[(ANNA, CARL), (BERT, CARL)])
    assert seat_of(CARL, {ANNA, BERT}, around, taken=[ANNA]) == BERT


def test_an_escalation_that_is_due_can_decide_instead_while_the_others_still_may() -> None:
    later = LaterGroups(600, (group("e0/managers", 1, "team:m"),))
    asked = plan((group("a", 2),), escalations=(later,))
    around = people({"a": [ANNA, BERT], "m": [DORA]})
    assert not count(asked, [vote(DORA)], around, waited=599).approved
    assert count(asked, [vote(DORA)], around, waited=600).approved
    assert count(asked, [vote(ANNA), vote(BERT)], around, waited=600).approved


def test_the_fallback_helps_a_group_with_too_few_people_and_the_quorum_stands() -> None:
    asked = plan((group("a", 2),), fallback=group("fallback", 1, "team:f"))
    enough = people({"a": [ANNA, BERT], "f": [DORA]})
    assert not count(asked, [vote(ANNA), vote(DORA)], enough).approved, "nobody is missing"
    gone = people({"a": [ANNA, OLGA], "f": [DORA]}, self_=[OLGA])
    assert not count(asked, [vote(DORA)], gone).approved
    assert count(asked, [vote(ANNA), vote(DORA)], gone).approved
    away = people({"a": [ANNA, BERT], "f": [DORA]}, away=[BERT])
    assert count(asked, [vote(ANNA), vote(DORA)], away).approved
    assert lacking(asked, people({"a": [ANNA], "f": []})) is not None
    assert lacking(asked, gone) is None


def test_as_many_must_deny_as_the_policy_says() -> None:
    asked, around = plan((group("a", 2),), deny_threshold=2), people({"a": [ANNA, BERT, CARL]})
    assert not count(asked, [vote(ANNA, verdict=NO)], around).denied
    assert not count(asked, [vote(ANNA, verdict=NO), vote(DORA, verdict=NO)], around).denied, "dora has no say"
    assert count(asked, [vote(ANNA, verdict=NO), vote(BERT, verdict=NO)], around).denied


persons = st.sampled_from([ANNA, BERT, CARL, DORA, OLGA])
votes = st.builds(Vote, persons, st.none() | persons, st.integers(0, 1), st.sampled_from([YES, NO]))


@given(
    quorums=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    members=st.lists(st.frozensets(persons), min_size=3, max_size=3),
    self_=st.frozensets(persons, max_size=2),
    delegates=st.frozensets(st.tuples(persons, persons), max_size=3),
    away=st.frozensets(persons, max_size=2),
    given_votes=st.lists(votes, max_size=6, unique_by=lambda one: (one.person, one.stage)),
)
def test_approved_implies_a_quorum_of_distinct_eligible_people_none_of_them_self(
    quorums: list[int],
    members: list[frozenset[UUID]],
    self_: frozenset[UUID],
    delegates: frozenset[tuple[UUID, UUID]],
    away: frozenset[UUID],
    given_votes: list[Vote],
) -> None:
    asked = plan(*((group(str(number), quorum),) for number, quorum in enumerate(quorums)))
    around = people(
        {str(number): some for number, some in enumerate(members)}, self_=self_, delegates=delegates, away=away
    )
    found = count(asked, given_votes, around)
    if not found.approved:
        return
    for number, quorum in enumerate(quorums):
        yes = {one.person: one for one in given_votes if one.stage == number and one.verdict is YES}
        able = {
            person: one.seat
            for person, one in yes.items()
            if person not in self_
            and one.seat in members[number] - self_
            and (one.on_behalf_of is None or (one.on_behalf_of, person) in delegates)
        }
        assert len(set(able.values())) >= quorum
        assert len(able) >= quorum
    assert not found.counted & self_
