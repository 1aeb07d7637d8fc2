"""Random moves of everybody at once: people, agents, operators, workers, the clock, a ledger that fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Tool
from jitaccess.catalog.services import set_server_enabled
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import set_agent_enabled
from jitaccess.policy.delegations import delegate, end_delegation
from jitaccess.policy.locks import lock, unlock
from jitaccess.policy.models import Delegation, Lock, Role
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from requests_app import services
from requests_app.models import AccessRequest
from requests_app.services import Ask, ExactCall, Narrow
from tests.requests_app.machine.checked import TOOLS, Checked, label_of
from tests.requests_app.machine.documents import POLICIES, ROLES, policy_text, role_text
from tests.requests_app.machine.stage import (
    ARGUMENTS,
    SWEEPS,
    no_errors_logged,
)
from tests.requests_app.machine.world import Row

PEOPLE = ["anna", "bert", "carl", "dora", "olga", "admin"]
USERS = st.sampled_from([None, None, "bert"])
WHO = st.sampled_from([*PEOPLE[:4], *PEOPLE])
SECONDS = st.sampled_from([600, 3600, 60, 1800, 600, 3600, 7200, 59, 5 * 3600])
USES = st.sampled_from([None, None, 1, 2, 4])
SOME = st.integers(0, 7)
CALLS = st.tuples(st.sampled_from(TOOLS[:3]), st.sampled_from(sorted(ARGUMENTS)))
PERMUTED = st.permutations(["anna", "dora", "bert", "carl"])
THINGS = st.one_of(
    st.sets(st.sampled_from(TOOLS[:3]), min_size=1).map(lambda tools: (tools, set(), False)),
    st.sets(CALLS, min_size=1, max_size=2).map(lambda calls: (set(), calls, False)),
    st.just((set(), set(), True)),
    st.tuples(st.sets(st.sampled_from(TOOLS)), st.sets(CALLS, max_size=1), st.booleans()),
)


def pending(self: Workflow) -> bool:
    return bool(self.open)


def granted(self: Workflow) -> bool:
    return bool(self.model.grants)


class Workflow(Checked):
    # -- asking ---------------------------------------------------------------------------------------------------

    @rule(user=USERS, things=THINGS, seconds=SECONDS, uses=USES, later=st.booleans(), old=st.none() | SOME)
    def ask(self, user: str | None, things: Any, seconds: int, uses: int | None, later: bool, old: int | None) -> None:
        self.submit(user, things, seconds, uses, later, old)

    def submit(
        self, user: str | None, things: Any, seconds: int, uses: int | None, later: bool, old: int | None
    ) -> None:
        tools, calls, role = things
        start = self.model.now + timedelta(hours=2) if later and seconds == 3600 else None
        replaced = self.request(old) if old is not None and self.open else None
        if not (tools or calls or role):
            return
        ask = Ask(
            tools=[("git", tool) for tool in tools],
            calls=[ExactCall("git", tool, ARGUMENTS[key]) for tool, key in sorted(calls)],
            roles=["writer"] if role else [],
            reason="Finish the release notes",
            seconds=seconds,
            max_uses=uses,
            starts_at=start,
            supersedes=replaced,
        )
        wanted = {"tools": tools, "calls": calls, "role": role, "seconds": seconds, "uses": uses, "start": start}
        snapshot = self.stage.look(user)
        self.attempt(
            lambda: services.submit_request(principal=self.stage.principals[user], ask=ask, snapshot=snapshot).request,
            lambda pk: self.model.submit(pk, user, wanted, replaced),
        )

    @precondition(granted)
    @rule(user=USERS, grant=SOME, seconds=SECONDS, people=PERMUTED)
    def extend(self, user: str | None, grant: int, seconds: int, people: list[str]) -> None:
        pk, before = self.grant(grant), set(self.model.requests)
        user = self.holder(pk, user, odd=grant == 7)
        snapshot = self.stage.look(user)
        self.attempt(
            lambda: services.extend_grant(
                grant_id=self.grant_ids[pk], principal=self.stage.principals[user], seconds=seconds,
                reason="It takes longer", snapshot=snapshot,
            ).request,
            lambda new: self.model.extend(new, user, self.model.grants[pk], seconds),
        )  # fmt: skip
        if grant < 4:
            self.all_approve(set(self.model.requests) - before, people)

    @precondition(pending)
    @rule(user=USERS, request=SOME)
    def cancel(self, user: str | None, request: int) -> None:
        pk = self.request(request)
        self.attempt(
            lambda: services.cancel_request(request_id=pk, principal=self.stage.principals[user]),
            lambda _: self.model.cancel(pk, user),
        )

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide(self, pk: Any, who: str, yes: bool, terms: Row | None, channel: str = "web", shown: bool = True) -> None:
        row = AccessRequest.objects.get(pk=pk)
        common = {"request_id": pk, "approver": self.person(who), "channel": channel,
                  "digest": row.digest if shown else "sha256:other"}  # fmt: skip
        narrow = Narrow(
            seconds=terms["seconds"], max_uses=terms["uses"], labels=[label_of(label) for label in terms["labels"]]
        ) if terms else None  # fmt: skip

        def do() -> Any:
            return services.approve_request(**common, narrow=narrow) if yes else services.deny_request(**common)

        self.attempt(do, lambda _: self.model.decide(pk, who, yes, terms, channel, shown))

    @precondition(pending)
    @rule(request=SOME, who=WHO, channel=st.sampled_from(["web", "web", "web", "cli"]), shown=SOME)
    def approve(self, request: int, who: str, channel: str, shown: int) -> None:
        self.decide(self.request(request), who, True, None, channel, shown != 7)

    @precondition(pending)
    @rule(request=SOME, who=WHO, shorter=st.sampled_from([0, 0, 60, 600, -60]), uses=USES, drop=SOME)
    def approve_less(self, request: int, who: str, shorter: int, uses: int | None, drop: int) -> None:
        pk = self.request(request)
        asked = self.model.requests[pk]
        labels = [label for number, label in enumerate(sorted(asked["things"])) if number != drop or drop == 0]
        terms = {"seconds": max(asked["seconds"] - shorter, 60), "uses": uses or asked["uses"], "labels": set(labels)}
        self.decide(pk, who, True, terms)

    @precondition(pending)
    @rule(request=SOME, people=PERMUTED)
    def everybody_approves(self, request: int, people: list[str]) -> None:
        self.all_approve({self.request(request)}, people)

    def all_approve(self, requests: set[Any], people: list[str]) -> None:
        for pk in requests:
            for who in [*people, people[0]]:
                if self.model.requests[pk]["status"] == "pending":
                    self.decide(pk, who, True, None)

    @rule(user=USERS, things=THINGS, seconds=SECONDS, people=PERMUTED)
    def get(self, **how: Any) -> None:
        self.get_(**how)

    def get_(self, user: str | None, things: Any, seconds: int, people: list[str]) -> None:
        """What most runs are about: asked for and approved at once."""
        before = set(self.model.requests)
        self.submit(user, things, seconds, None, False, None)
        self.all_approve(set(self.model.requests) - before, people)

    get_more = rule(user=USERS, things=THINGS, seconds=SECONDS, people=PERMUTED)(lambda self, **how: self.get_(**how))

    @precondition(pending)
    @rule(request=SOME, who=WHO)
    def deny(self, request: int, who: str) -> None:
        self.decide(self.request(request), who, False, None)

    @precondition(pending)
    @rule(request=SOME, who=WHO)
    def ask_for_changes(self, request: int, who: str) -> None:
        pk = self.request(request)
        self.attempt(
            lambda: services.ask_for_changes(request_id=pk, approver=self.person(who), channel="web", note="Less."),
            lambda _: self.model.changes(pk, who),
        )

    # -- ending ---------------------------------------------------------------------------------------------------

    @precondition(granted)
    @rule(user=USERS, grant=SOME)
    def release(self, user: str | None, grant: int) -> None:
        pk = self.grant(grant)
        user = self.holder(pk, user, odd=grant == 7)
        self.attempt(
            lambda: services.release_grant(grant_id=self.grant_ids[pk], principal=self.stage.principals[user]),
            lambda _: self.model.release(pk, user),
        )

    @precondition(granted)
    @rule(who=WHO, grant=SOME)
    def revoke(self, who: str, grant: int) -> None:
        pk = self.grant(grant)
        self.attempt(
            lambda: services.revoke_grant(grant_id=self.grant_ids[pk], user=self.person(who)),
            lambda _: self.model.revoke(pk, who),
        )

    # -- calling --------------------------------------------------------------------------------------------------

    @rule(user=USERS, tool=st.sampled_from(TOOLS), arguments=st.sampled_from(sorted(ARGUMENTS)))
    def call(self, user: str | None, tool: str, arguments: str) -> None:
        self.call_(user, tool, arguments, turned=False)

    @precondition(granted)
    @rule(grant=SOME, which=SOME, arguments=st.sampled_from(sorted(ARGUMENTS)), turned=st.booleans())
    def call_what_was_granted(self, grant: int, which: int, arguments: str, turned: bool) -> None:
        given = self.model.grants[self.grant(grant)]
        binding = given["bindings"][which % len(given["bindings"])]
        tool = min(binding.get("tools", ["git_commit"]))
        self.call_(given["user"], tool, binding.get("arguments", arguments) if which else arguments, turned)

    def call_(self, user: str | None, tool: str, arguments: str, turned: bool) -> None:
        given = dict(reversed(ARGUMENTS[arguments].items())) if turned else ARGUMENTS[arguments]

        def expected(verdict: Any) -> str:
            named = [self.binding_rows[pk] for pk in verdict.bindings if pk in self.binding_rows] if verdict else []
            said = self.model.call(user, tool, arguments, named[0] if named else None)
            assert (said == "ok") is bool(verdict), (said, verdict)
            return "ok"

        self.attempt(lambda: self.stage.call(user, tool, given), expected)

    # -- what else changes ----------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(["everything", "agent", "user", "server", "role", "grant"]),
        which=SOME,
        minutes=st.sampled_from([None, 5, 5]),
    )
    def lock(self, kind: str, which: int, minutes: int | None) -> None:
        targets: dict[str, list[tuple[Any, Any]]] = {
            "everything": [(None, None)],
            "agent": [("agent", self.cast.agent.pk)],
            "user": [(name, self.stage.people[name].pk) for name in ("bert", "olga", "carl")],
            "server": [("git", self.cast.server.pk)],
            "role": [("writer", self.stage.role.pk), ("read-only", self.cast.read_only.pk)],
            "grant": [*self.grant_ids.items()],
        }
        if not targets[kind]:
            return
        target, real = targets[kind][which % len(targets[kind])]
        until = self.model.now + timedelta(minutes=minutes) if minutes else None
        self.attempt(
            lambda: lock(kind=kind, target=real, reason="To be safe", operator=self.cast.operator, expires_at=until),
            lambda _: self.model.lock(kind, target, until),
        )

    @precondition(lambda self: self.model.locks)
    @rule(which=SOME)
    def unlock(self, which: int) -> None:
        self.unlock_(which % len(self.model.locks))

    def unlock_(self, number: int) -> None:
        row = list(Lock.objects.order_by("pk"))[number]
        self.attempt(lambda: unlock(lock=row, operator=self.cast.operator), lambda _: self.model.unlock(number))

    @rule(what=st.sampled_from(["agent", "server", *PEOPLE[:5]]))
    def switch_off(self, what: str) -> None:
        self.switch(what, False)

    def switch(self, what: str, on: bool) -> None:
        if what == "agent":
            set_agent_enabled(agent=self.cast.agent, enabled=on, operator=self.cast.operator)
            self.model.enabled = on
        elif what == "server":
            set_server_enabled(server=self.cast.server, enabled=on, operator=self.cast.operator)
            self.model.server = on
        else:
            User.objects.filter(username=what).update(is_active=on)
            self.model.active[what] = self.stage.people[what].is_active = on  # as with whoever signs in now

    @precondition(lambda self: self.off)
    @rule(which=SOME)
    def switch_on(self, which: int) -> None:
        self.switch(self.off[which % len(self.off)], True)

    @property
    def off(self) -> list[str]:
        shut = [name for name, on in (("agent", self.model.enabled), ("server", self.model.server)) if not on]
        return shut + [name for name, active in self.model.active.items() if not active]

    @precondition(lambda self: self.off or self.model.locks)
    @rule()
    def all_is_well_again(self) -> None:
        """Most of what people do is possible only then."""
        self.broken = None
        for what in self.off:
            self.switch(what, True)
        for number in range(len(self.model.locks)):
            if not self.model.locks[number]["lifted"]:
                self.unlock_(number)

    @rule(who=st.sampled_from(["anna", "bert", "carl", "dora"]))
    def change_team(self, who: str) -> None:
        members = self.cast.reviewers.members
        if who in self.model.reviewers:
            members.remove(self.stage.people[who])
        else:
            members.add(self.stage.people[who])
        self.model.reviewers ^= {who}

    @precondition(lambda self: self.policies < 4)
    @rule(which=st.integers(0, len(POLICIES) - 1))
    def change_policy(self, which: int) -> None:
        self.policies += 1
        save_policy(document=policy_text(which), operator=self.cast.operator, policy=self.cast.policy)
        self.model.rules = POLICIES[which]

    @rule(which=st.integers(0, len(ROLES) - 1))
    def change_role(self, which: int) -> None:
        role = Role.objects.get(pk=self.stage.role.pk)
        save_role(document=role_text(which, role.head + 1), operator=self.cast.operator, role=role)
        self.model.roles.append(ROLES[which])

    @rule(tool=st.sampled_from(TOOLS), how=st.sampled_from(["offer", "review", "review", "remove", "other"]))
    def change_tool(self, tool: str, how: str) -> None:
        facts, row = self.model.tools[tool], Tool.objects.filter(pk=self.cast.tools[tool].pk)
        changes = {
            "offer": {"digest": self.cast.tools[tool].digest, "present": True},
            "other": {"digest": "sha256:other", "present": True},
            "review": {"pin": facts["digest"]},
            "remove": {"present": False},
        }[how]
        row.update(**changes)
        facts.update(changes)

    @rule(who=st.sampled_from(PEOPLE[:5]), to=st.sampled_from([None, *PEOPLE[:5]]), hours=st.sampled_from([1, 8]))
    def delegate(self, who: str, to: str | None, hours: int) -> None:
        ends = self.model.now + timedelta(hours=hours)
        mine = Principal.of_user(self.stage.people[who]).actor()
        self.attempt(
            lambda: delegate(
                person=self.stage.people[who], to=self.stage.people[to] if to else None, ends_at=ends, operator=mine
            ),
            lambda _: self.model.delegate(who, to, ends),
        )

    @precondition(lambda self: self.model.delegations)
    @rule(which=SOME)
    def end_delegation(self, which: int) -> None:
        number = which % len(self.model.delegations)
        row = list(Delegation.objects.order_by("pk"))[number]
        self.attempt(
            lambda: end_delegation(delegation=row, operator=Actor(user_name="operator")),
            lambda _: self.model.recall(number),
        )

    # -- time, workers, faults ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 31, 300, 900, 1800, 3600, -90]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)
        self.stage.at(self.model.now)

    @rule(which=st.integers(0, 3), off=st.sampled_from([0, 0, -1, 1]))
    def time_comes(self, which: int, off: int) -> None:
        """To the very instant at which something ends, or a microsecond before or after it."""
        ahead = [edge for edge in self.model.edges() if edge > self.model.now]
        if ahead:
            self.model.now = ahead[which % len(ahead)] + timedelta(microseconds=off)
            self.stage.at(self.model.now)

    @rule(repeated=st.booleans())
    def workers_come_by(self, repeated: bool) -> None:
        """Each task once, or delivered twice: the second time there is nothing left to do."""
        with no_errors_logged():
            for task in SWEEPS:
                task()
            assert not repeated or not any(task() for task in SWEEPS)
        self.model.sweep()

    @rule(after=st.integers(0, 3))
    def ledger_breaks(self, after: int) -> None:
        self.broken = after
