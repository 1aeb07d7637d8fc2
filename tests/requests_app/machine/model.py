"""What the workflow is meant to do, as plainly as it can be said: dicts, a clock that is told, nothing of the product.

Each move changes the model and returns how it ends: "ok", "void" (what was asked for cannot be granted any more, which
stays on record) or "refused" (nothing has changed). `told` counts what the ledger has to hold of it.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

Row = dict[str, Any]
LIMITS = {"write": (240, 360, None), "destructive": (60, 60, 3), "role": (120, 120, None)}  # minutes, in all, calls
MINUTE = timedelta(minutes=1)


def minutes(text: str) -> timedelta:
    return int(text.removesuffix("m")) * MINUTE


class Model:
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
        number, noes = 0, 0
        for number in range(len(rule["stages"])):  # noqa: B007 - the last one is the answer
            usual = self.groups(rule, number, self_)
            due = [one for one in rule.get("escalate", ()) if request["at"] + minutes(one["after"]) <= self.now]
            later = [[(self.members([one]) - self_, one["quorum"]) for one in step["groups"]] for step in due]
            seats = set().union(*(people for groups in (usual, *later) for people, _ in groups))
            here = [vote for vote in request["votes"].values() if vote["stage"] == number and self.seated(vote, seats)]
            for_it = {vote["seat"] for vote in here if vote["yes"]}
            yes |= {vote["who"] for vote in here if vote["yes"]}
            noes = len({vote["seat"] for vote in here if not vote["yes"]})
            passed = any(groups and all(len(for_it & who) >= n for who, n in groups) for groups in (usual, *later))
            if not passed:
                break
        return {"stage": number, "seats": seats, "yes": yes, "noes": noes, "passed": passed}

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
        return gone or self.locked("everything", None) or self.locked("agent", "agent") or self.locked(
            "user", user or "olga", "olga") or self.locked("server", "git")  # fmt: skip

    def live(self, grant: Row) -> bool:
        return grant["ended"] is None and grant["starts"] <= self.now < grant["expires"]

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
        if (locks and self.stopped(user)) or not self.server or not facts["present"] or facts["pin"] != facts["digest"]:
            return []
        mine = [one for one in self.grants.values() if one["user"] == user and self.live(one)]
        held = [(one, binding) for one in mine for binding in one["bindings"]]
        for _, binding in held:
            if "role" in binding and any(tool in self.roles[n][1] for n in (-1, binding["role"] - 1)):
                return []
        found = [{"default": True}] if facts["access"] == "read" and not (locks and self.locked("role", "read-only")) else []
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

    # -- asking ---------------------------------------------------------------------------------------------------

    def possible(self, user: str | None, ask: Row) -> bool:
        """Whether what is asked for can be asked for, and for so long."""
        limits = [LIMITS["role"]] if ask["role"] else []
        if (ask["tools"] or ask["calls"]) and self.stopped(user):
            return False
        for tool, arguments in (*((tool, None) for tool in ask["tools"]), *ask["calls"]):
            facts = self.tools[tool]
            there = self.server and facts["present"] and facts["pin"] == facts["digest"]
            allowed = self.allowing(user, tool, arguments)
            if not there or facts["access"] == "read" or (allowed and (arguments or "arguments" not in allowed[0])):
                return False
            if not allowed and self.allowing(user, tool, arguments, locks=False):
                return False
            held = [one for grant in self.grants.values() if grant["user"] == user and self.live(grant)
                    for one in grant["bindings"] if "role" in one]  # fmt: skip
            if any(tool in self.roles[n][1] for one in held for n in (-1, one["role"] - 1)):
                return False
            limits.append(LIMITS[facts["access"]])
        most = min((uses for _, _, uses in limits if uses), default=None)
        only_calls = not ask["tools"] and not ask["role"]
        ask["uses"] = ask["uses"] or (1 if only_calls else most)
        ask["total"] = max(min(total for _, total, _ in limits) * 60, ask["seconds"])
        fits = 60 <= ask["seconds"] <= min(limit for limit, _, _ in limits) * 60
        return fits and (most is None or ask["uses"] is None or ask["uses"] <= most)

    def things(self, ask: Row) -> Row:
        """What is asked for, by label: tools with pin and class, exact calls, a version of the role."""
        pins = {tool: (self.tools[tool]["pin"], self.tools[tool]["access"]) for tool in self.tools}
        found = {tool: ("tool", tool, *pins[tool], None) for tool in ask["tools"]}
        found |= {f"{tool}#{key}": ("call", tool, *pins[tool], key) for tool, key in ask["calls"]}
        return found | ({"role:writer": ("role", len(self.roles))} if ask["role"] else {})

    def submit(self, pk: Any, user: str | None, ask: Row, old: Any = None) -> str:
        if not self.possible(user, ask):
            return "refused"
        return self.file(pk, user, ask | {"things": self.things(ask), "extends": None}, old)

    def extend(self, pk: Any, user: str | None, grant: Row, seconds: int) -> str:
        left = (grant["latest"] - grant["expires"]).total_seconds()
        over = grant["ended"] is not None or grant["expires"] <= self.now
        if grant["user"] != user or over or not 60 <= seconds <= left:
            return "refused"
        old = self.requests[grant["request"]]
        ask = {"seconds": seconds, "uses": old["uses"], "total": old["total"], "start": None}
        return self.file(pk, user, ask | {"things": old["things"], "extends": grant["id"]})

    def file(self, pk: Any, user: str | None, ask: Row, old: Any = None) -> str:
        dedupe = (user, ask["seconds"], ask["uses"], ask["start"], ask["extends"], frozenset(ask["things"].values()))
        waiting = {key: one for key, one in self.requests.items() if one["status"] == "pending"}
        same = next((key for key, one in waiting.items() if one["dedupe"] == dedupe), None)
        rule = self.rules[0] if not self.rules[0].get("when") or ask["seconds"] <= 600 else self.rules[1]
        if not self.enabled:
            return "refused"
        if same is not None and waiting[same]["until"] > self.now and same != old:
            assert pk in (None, same), "the same ask is the same request"
            return "ok"
        open_ = [key for key, one in waiting.items() if one["until"] > self.now and key != old]
        replaced = self.requests.get(old)
        if replaced and (replaced["user"] != user or old not in waiting or replaced["until"] <= self.now):
            return "refused"
        lately = [one for one in self.requests.values() if one["at"] > self.now - 60 * MINUTE]
        pause = minutes(rule.get("cool_down", "0m"))
        denied = [one for one in self.requests.values() if one["status"] == "denied" and one["user"] == user
                  and one["closed"] > self.now - pause and set(one["things"]) & set(ask["things"])]  # fmt: skip
        self_ = self.self_(user)
        lacking = any(len(self.there(people, self_)) < quorum for number in range(len(rule.get("stages", ())))
                      for people, quorum in self.groups(rule, number, self_))  # fmt: skip
        if len(open_) >= 10 or len(lately) >= 30 or (pause and denied) or lacking:
            return "refused"
        if pk is None:
            return "ok"  # the caller says what went wrong
        if same is not None and same != old:
            self.close(same, "expired")
        if replaced:
            self.close(old, "superseded")
        self.requests[pk] = {**ask, "id": pk, "user": user, "rule": rule, "dedupe": dedupe, "at": self.now, "told": 0,
                             "until": self.now + 60 * MINUTE, "status": "pending", "closed": None, "votes": {},
                             "kept": 0}  # fmt: skip
        self.tell("request.submitted", about=pk)
        if rule.get("auto_approve"):
            self.activate(pk, ask["seconds"], ask["uses"], set(ask["things"]))
        return "ok"

    # -- deciding -------------------------------------------------------------------------------------------------

    def close(self, pk: Any, status: str) -> str:
        assert self.requests[pk]["status"] == "pending", "an end is final"
        self.requests[pk] |= {"status": status, "closed": self.now}
        return self.tell(f"request.{status}", about=pk)

    def obstacle(self, request: Row) -> bool:
        user = request["user"]
        if not self.enabled or not self.active["olga"] or (user and not self.active[user]):
            return True
        if request["extends"]:
            grant = self.grants[request["extends"]]
            if grant["ended"] is not None or grant["expires"] <= self.now:
                return True
        return any(self.changed(thing, bool(request["extends"])) for thing in request["things"].values())

    def changed(self, thing: Any, extension: bool) -> bool:
        if thing[0] == "role":
            return not extension and thing[1] != len(self.roles)
        facts = self.tools[thing[1]]
        same = (facts["pin"], facts["access"]) == thing[2:4] and facts["pin"] == facts["digest"]
        return not (self.server and facts["present"] and same)

    def may_decide(self, who: str, request: Row) -> bool:
        in_time = request["status"] == "pending" and self.now < request["until"]
        mine = any(vote["who"] == who for vote in request["votes"].values())
        seat = self.seat(who, request, self.stand(request))
        return in_time and self.active[who] and who not in self.self_(request["user"]) and bool(seat or mine)

    def decide(self, pk: Any, who: str, yes: bool, terms: Row | None, channel: str, shown: bool) -> str:
        request = self.requests[pk]
        right = not yes or channel in request["rule"].get("channels", [channel])
        if not self.may_decide(who, request) or not shown or not right:
            return "refused"
        if yes and self.obstacle(request):
            self.close(pk, "invalidated")
            return "void"
        stand = self.stand(request)
        seat, stage = self.seat(who, request, stand), stand["stage"]
        if seat is None:
            earlier = max((vote for vote in request["votes"].values() if vote["who"] == who), key=lambda one: one["stage"])
            if yes:
                return "refused"
            seat, stage = earlier["seat"], earlier["stage"]
        wider = terms and (terms["seconds"] > request["seconds"] or (terms["uses"] or 1) > (request["uses"] or 9)
                           or not terms["labels"] or not terms["labels"] <= set(request["things"]))  # fmt: skip
        before = request["votes"].get((stage, who))
        if wider or (before and (before["yes"], before["terms"]) == (yes, terms)):
            return "refused"
        request["votes"][stage, who] = {"who": who, "seat": seat, "stage": stage, "yes": yes, "terms": terms}
        stand = self.stand(request)
        agreed = [vote["terms"] for vote in request["votes"].values() if vote["who"] in stand["yes"] and vote["yes"]
                  and vote["terms"]]  # fmt: skip
        labels = set(request["things"]).intersection(*(one["labels"] for one in agreed))
        approved = stand["passed"] and stand["noes"] < request["rule"].get("deny_threshold", 1)
        if approved and not labels:
            del request["votes"][stage, who]
            if before:
                request["votes"][stage, who] = before
            return "refused"
        request["kept"] += 1
        self.tell("decision.recorded", about=pk)
        if approved:
            uses = [one["uses"] for one in (request, *agreed) if one["uses"] is not None]
            seconds = min(one["seconds"] for one in (request, *agreed))
            self.activate(pk, seconds, min(uses, default=None), labels)
        elif stand["noes"] >= request["rule"].get("deny_threshold", 1):
            self.close(pk, "denied")
        return "ok"

    def activate(self, pk: Any, seconds: int, uses: int | None, labels: set[str]) -> None:
        request = self.requests[pk]
        self.close(pk, "approved")
        if request["extends"]:
            grant = self.grants[request["extends"]]
            grant["expires"] = min(grant["expires"] + timedelta(seconds=seconds), grant["latest"])
            self.tell("grant.extended", about=pk)
            return
        starts = max(request["start"] or self.now, self.now)
        things = [thing for label, thing in request["things"].items() if label in labels]
        tools = {thing[1]: thing[2] for thing in things if thing[0] == "tool"}
        bindings: list[Row] = [{"tools": tools}] if tools else []
        bindings += [{"tools": {one[1]: one[2]}, "arguments": one[4]} for one in things if one[0] == "call"]
        bindings += [{"role": thing[1]} for thing in things if thing[0] == "role"]
        self.grants[pk] = {
            "id": pk, "request": pk, "user": request["user"], "starts": starts, "begun": starts <= self.now,
            "expires": starts + timedelta(seconds=seconds), "ended": None, "reason": "",
            "latest": starts + timedelta(seconds=max(request["total"], seconds)),
            "bindings": [one | {"left": uses, "most": uses, "used": None} for one in bindings],
        }  # fmt: skip
        self.tell("grant.activated" if starts <= self.now else "grant.scheduled", about=pk)
