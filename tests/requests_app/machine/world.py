"""Who is who, and what may be called: recomputed from plain dicts and a clock that is told, nothing of the product."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

Row = dict[str, Any]
MINUTE = timedelta(minutes=1)


def minutes(text: str) -> timedelta:
    return int(text.removesuffix("m")) * MINUTE


class World:
    def __init__(self, now: datetime, ids: dict[str, Any], tools: dict[str, Row]) -> None:
        self.now, self.ids, self.tools = now, ids, tools
        self.active = dict.fromkeys(ids, True)
        self.reviewers = {"anna", "bert", "olga", "dora"}
        self.enabled = self.server = True
        self.rules: list[Row] = []
        self.roles: list[tuple[list[str], list[str]]] = []
        self.locks: list[Row] = []
        self.delegations: list[Row] = []
        self.requests: dict[Any, Row] = {}
        self.grants: dict[Any, Row] = {}
        self.told: Counter[tuple[str, Any]] = Counter()

    def tell(self, *events: str, about: Any = None) -> str:
        self.told.update((event, about) for event in events)
        return "ok"

    # -- people ---------------------------------------------------------------------------------------------------

    def self_(self, user: str | None) -> set[str]:
        """Who asks, in all their hats: the owner, who issued the token, on whose behalf."""
        return {"olga", "admin"} | ({user} if user else set())

    def members(self, groups: list[Row]) -> set[str]:
        named = [ref.split(":") for group in groups for ref in group["people"]]
        found = {name for kind, name in named if kind == "user"}
        found |= self.reviewers if any(kind == "team" for kind, _ in named) else set()
        return {person for person in found if self.active[person]}

    def standins(self) -> list[tuple[str, str | None]]:
        """(who, in whose hands); inactive hands are nobody's."""
        live = [one for one in self.delegations if not one["ended"] and one["starts"] <= self.now < one["ends"]]
        return [(one["who"], one["to"] if one["to"] and self.active[one["to"]] else None) for one in live]

    def there(self, people: set[str], self_: set[str]) -> set[str]:
        away = {who for who, _ in self.standins()}
        lent = {who for who, to in self.standins() if to and to not in self_ | away}
        return {person for person in people if person not in away or person in lent}

    def groups(self, rule: Row, number: int, self_: set[str]) -> list[tuple[set[str], int]]:
        found = []
        for group in rule["stages"][number]["groups"]:
            people, quorum = self.members([group]) - self_, group["quorum"]
            if rule.get("fallback") and len(self.there(people, self_)) < quorum:
                people = people | (self.members([rule["fallback"]]) - self_)
                quorum = max(quorum, rule["fallback"]["quorum"])
            found.append((people, quorum))
        return found

    def stand(self, request: Row) -> Row:
        """The stage that is decided, its seats, who said yes anywhere, denials, and whether all stages are met."""
        rule, self_, yes, passed = request["rule"], self.self_(request["user"]), set(), False
        seats: set[str] = set()
        against: set[str] = set()
        sat: dict[str, str] = {}  # one person sits on one seat, also from stage to stage
        number = 0
        for number in range(len(rule["stages"])):
            usual = self.groups(rule, number, self_)
            due = [one for one in rule.get("escalate", ()) if request["at"] + minutes(one["after"]) <= self.now]
            later = [[(self.members([one]) - self_, one["quorum"]) for one in step["groups"]] for step in due]
            seats = set().union(*(people for groups in (usual, *later) for people, _ in groups))
            here = [vote for vote in request["votes"].values() if vote["stage"] == number and self.seated(vote, seats)]
            good = [vote for vote in here if vote["yes"] and sat.setdefault(vote["who"], vote["seat"]) == vote["seat"]]
            for_it = {vote["seat"] for vote in good}
            yes |= {vote["who"] for vote in good}
            against |= {vote["seat"] for vote in here if not vote["yes"]}
            passed = any(groups and all(len(for_it & who) >= n for who, n in groups) for groups in (usual, *later))
            if not passed:
                break
        return {"stage": number, "seats": seats, "yes": yes, "noes": len(against), "passed": passed}

    def seated(self, vote: Row, seats: set[str]) -> bool:
        there = self.active[vote["who"]] and vote["seat"] in seats
        return there and (vote["seat"] == vote["who"] or (vote["seat"], vote["who"]) in self.standins())

    def seat(self, who: str, request: Row, stand: Row) -> str | None:
        if who in self.self_(request["user"]) or not self.active[who]:
            return None
        if who in stand["seats"]:
            return who
        taken = {vote["seat"] for vote in request["votes"].values() if vote["stage"] == stand["stage"]
                 and vote["who"] != who and self.active[vote["who"]]}  # fmt: skip
        lent = sorted((one for one, to in self.standins() if to == who and one in stand["seats"]), key=self.ids.get)
        return next((one for one in lent if one not in taken), lent[0] if lent else None)

    # -- what may be called ---------------------------------------------------------------------------------------

    def locked(self, kind: str, *targets: Any) -> bool:
        live = (one for one in self.locks if not one["lifted"] and (one["until"] is None or self.now < one["until"]))
        return any(one["kind"] == kind and one["target"] in targets for one in live)

    def stopped(self, user: str | None) -> bool:
        """Whether this principal may do nothing at all."""
        gone = not self.enabled or not self.active["olga"] or bool(user and not self.active[user])
        locked = self.locked("everything", None) or self.locked("agent", "agent")
        return gone or locked or self.locked("user", user or "olga", "olga")

    def live(self, grant: Row) -> bool:
        """That time is up needs no write; so when the clock is set back, what is on record as expired goes on."""
        ended = grant["ended"] is not None and grant["reason"] != "expired"
        return not ended and grant["starts"] <= self.now < grant["expires"]

    def gives(self, grant: Row, binding: Row, tool: str, arguments: str | None) -> bool:
        if "role" in binding:
            return all(tool in role[0] for role in (self.roles[-1], self.roles[binding["role"] - 1]))
        fits = arguments is None or binding.get("arguments", arguments) == arguments
        return fits and binding["tools"].get(tool) == self.tools[tool]["pin"]

    def allowing(self, user: str | None, tool: str, arguments: str | None, *, locks: bool = True) -> list[Row]:
        """The bindings by which a call is allowed, in the order in which they count: first what is not counted, then
        what is good for these arguments only. By default everybody may read.
        """
        facts = self.tools[tool]
        shut = locks and (self.stopped(user) or self.locked("server", "git"))
        if shut or not self.server or not facts["present"] or facts["pin"] != facts["digest"]:
            return []
        mine = [one for one in self.grants.values() if one["user"] == user and self.live(one)]
        held = [(one, binding) for one in mine for binding in one["bindings"]]
        for _, binding in held:
            if "role" in binding and any(tool in self.roles[n][1] for n in (-1, binding["role"] - 1)):
                return []
        found = (
            [{"default": True}]
            if facts["access"] == "read" and not (locks and self.locked("role", "read-only"))
            else []
        )
        for grant, binding in held:
            shut = self.locked("grant", grant["id"]) or ("role" in binding and self.locked("role", "writer"))
            if binding["left"] != 0 and not (locks and shut) and self.gives(grant, binding, tool, arguments):
                found.append(binding)
        return sorted(found, key=lambda one: (one.get("left") is not None, "arguments" not in one))

    def call(self, user: str | None, tool: str, arguments: str, binding: Row | None) -> str:
        """`binding` is the one that was named; of equally good ones any will do."""
        found = self.allowing(user, tool, arguments)
        if not found:
            return "refused"
        rank = [(one.get("left") is not None, "arguments" not in one) for one in found]
        assert binding is None if "default" in found[0] else any(one is binding for one in found[: rank.count(rank[0])])
        if binding and binding["left"] is not None:
            binding |= {"left": binding["left"] - 1, "used": self.now}
        return self.tell("call.authorized")
