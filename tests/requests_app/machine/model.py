"""What the workflow is meant to do, as plainly as it can be said.

Each move changes the model and returns how it ends: "ok", "void" (what was asked for cannot be granted any more, which
stays on record) or "refused" (nothing has changed). `told` counts what the ledger has to hold of it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.requests_app.machine.world import MINUTE, Row, World, minutes

LIMITS = {"write": (240, 360, None), "destructive": (60, 60, 3), "role": (120, 120, None)}  # minutes, in all, calls


class Model(World):
    # -- asking ---------------------------------------------------------------------------------------------------

    def possible(self, user: str | None, ask: Row) -> bool:
        """Whether what is asked for can be asked for, and for so long."""
        limits = [LIMITS["role"]] if ask["role"] else []
        if self.stopped(user) or ((ask["tools"] or ask["calls"]) and self.locked("server", "git")):
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
        if grant["user"] != user or over or not 60 <= seconds <= left or self.stopped(user):
            return "refused"
        old = self.requests[grant["request"]]
        ask = {"seconds": seconds, "uses": old["uses"], "total": old["total"], "start": None}
        whole = (grant["expires"] - grant["starts"]).total_seconds() + seconds  # what the rules look at
        return self.file(pk, user, ask | {"things": grant["things"], "extends": grant["id"]}, whole=whole)

    def file(self, pk: Any, user: str | None, ask: Row, old: Any = None, *, whole: float = 0) -> str:
        dedupe = (user, ask["seconds"], ask["uses"], ask["start"], ask["extends"], frozenset(ask["things"].values()))
        waiting = {key: one for key, one in self.requests.items() if one["status"] == "pending"}
        same = next((key for key, one in waiting.items() if one["dedupe"] == dedupe), None)
        rule = self.rules[0] if not self.rules[0].get("when") or (whole or ask["seconds"]) <= 600 else self.rules[1]
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
        # What extends a grant is not looked up anew, so it may be gone or another by now.
        gone = ask["extends"] is not None and any(self.changed(thing, True) for thing in ask["things"].values())
        if len(open_) >= 10 or len(lately) >= 30 or (pause and denied) or lacking or gone:
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
            earlier = max(
                (vote for vote in request["votes"].values() if vote["who"] == who), key=lambda one: one["stage"]
            )
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
        things = [request["things"][label] for label in labels]
        tools = {thing[1]: thing[2] for thing in things if thing[0] == "tool"}
        bindings: list[Row] = [{"tools": tools}] if tools else []
        bindings += [{"tools": {one[1]: one[2]}, "arguments": one[4]} for one in things if one[0] == "call"]
        bindings += [{"role": thing[1]} for thing in things if thing[0] == "role"]
        self.grants[pk] = {
            "id": pk, "request": pk, "user": request["user"], "things": {one: request["things"][one] for one in labels},
            "starts": starts, "begun": starts <= self.now,
            "expires": starts + timedelta(seconds=seconds), "ended": None, "reason": "",
            "latest": starts + timedelta(seconds=max(request["total"], seconds)),
            "bindings": [one | {"left": most, "most": most, "used": None} for one in bindings
                         for most in [uses or (1 if "arguments" in one else None)]],
        }  # fmt: skip
        self.tell("grant.activated" if starts <= self.now else "grant.scheduled", about=pk)

    # -- ending ---------------------------------------------------------------------------------------------------

    def cancel(self, pk: Any, user: str | None) -> str:
        request = self.requests[pk]
        if request["user"] != user or request["status"] != "pending":
            return "refused"
        return self.close(pk, "cancelled" if self.now < request["until"] else "expired")

    def changes(self, pk: Any, who: str) -> str:
        asked = self.may_decide(who, self.requests[pk])
        return self.tell("request.changes_asked", about=pk) if asked else "refused"

    def end(self, pk: Any, reason: str) -> str:
        grant = self.grants[pk]
        over = grant["expires"] <= self.now
        if grant["ended"] is not None or over is not (reason == "expired"):
            return "refused"
        grant |= {"ended": grant["expires"] if over else self.now, "reason": reason}
        return self.tell(f"grant.{reason}", about=pk)

    def release(self, pk: Any, user: str | None) -> str:
        return self.end(pk, "released") if self.grants[pk]["user"] == user else "refused"

    def revoke(self, pk: Any, who: str) -> str:
        request, rule = self.requests[pk], self.requests[pk]["rule"]
        steps = [*rule.get("stages", ()), *rule.get("escalate", ()), {"groups": [rule.get("fallback")]}]
        asked = self.members([group for step in steps for group in step["groups"] if group])
        hats = {who, *(one for one, to in self.standins() if to == who and self.active[one])}
        if not self.active[who] or (who not in self.self_(request["user"]) and not hats & asked):
            return "refused"
        return self.end(pk, "revoked")

    # -- what workers do, when they are alive ---------------------------------------------------------------------

    def sweep(self) -> None:  # noqa: C901 - one thing after the other
        for pk, grant in self.grants.items():
            user = grant["user"]
            gone = not self.enabled or not self.active["olga"] or (user and not self.active[user])
            counted = [one for one in grant["bindings"] if one["left"] is not None]
            settled = [one for one in counted if one["left"] == 0 and one["used"] < self.now - MINUTE / 2]
            tools = [tool for one in grant["bindings"] for tool in one.get("tools", ())]
            removed = not any("role" in one or "database" in one for one in grant["bindings"]) and not any(
                self.tools[tool]["present"] for tool in tools)  # fmt: skip
            due = grant["starts"] <= self.now < grant["expires"] and not grant["begun"]
            if grant["ended"] is None and grant["expires"] <= self.now:
                self.end(pk, "expired")
            elif grant["ended"] is None and gone:
                self.end(pk, "subject_disabled")
            elif grant["ended"] is None and settled and not any(one["left"] for one in counted):
                self.end(pk, "used_up")
            elif grant["ended"] is None and removed:
                self.end(pk, "target_removed")
            elif grant["ended"] is None and due:
                grant["begun"] = True
                self.tell("grant.activated", about=pk)
        for pk, request in self.requests.items():
            if request["status"] == "pending" and request["until"] <= self.now:
                self.close(pk, "expired")
            elif request["status"] == "pending" and self.obstacle(request):
                self.close(pk, "invalidated")
            elif request["status"] == "pending":
                self.remind(pk, request)

    def remind(self, pk: Any, request: Row) -> None:
        """What was missed comes as one, of either kind."""
        steps = [(minutes(one), "request.reminded") for one in request["rule"].get("reminders", ())]
        steps += [(minutes(one["after"]), "request.escalated") for one in request["rule"].get("escalate", ())]
        due = [event for after, event in sorted(steps) if request["at"] + after <= self.now]
        self.tell(*sorted(set(due[request["told"] :])), about=pk)
        request["told"] = max(request["told"], len(due))

    # -- what else changes ----------------------------------------------------------------------------------------

    def lock(self, kind: str, target: Any, until: Any) -> str:
        if self.locked(kind, target):
            return "refused"
        self.locks.append({"kind": kind, "target": target, "until": until, "lifted": False})
        return self.tell("lock.created")

    def unlock(self, number: int) -> str:
        one = self.locks[number]
        if one["lifted"] or (one["until"] is not None and one["until"] <= self.now):
            return "refused"
        one["lifted"] = True
        return self.tell("lock.lifted")

    def delegate(self, who: str, to: str | None, ends: Any) -> str:
        mine = [one for one in self.delegations if one["who"] == who and not one["ended"]]
        taken = any(one["starts"] < ends and one["ends"] > self.now for one in mine)
        if to == who or taken or not self.active[who] or (to and not self.active[to]):
            return "refused"
        self.delegations.append({"who": who, "to": to, "starts": self.now, "ends": ends, "ended": False})
        return self.tell("delegation.created")

    def recall(self, number: int) -> str:
        one = self.delegations[number]
        if one["ended"] or one["ends"] <= self.now:
            return "refused"
        one["ended"] = True
        return self.tell("delegation.ended")

    def edges(self) -> list[Any]:
        """Every instant at which something ends, begins or falls due by itself."""
        found = [time for one in self.grants.values() for time in (one["starts"], one["expires"])]
        found += [one["until"] for one in self.requests.values() if one["status"] == "pending"]
        found += [one["at"] + 30 * MINUTE for one in self.requests.values() if one["rule"].get("escalate")]
        found += [one["closed"] + 15 * MINUTE for one in self.requests.values() if one["status"] == "denied"]
        found += [
            time for one in (*self.delegations, *self.locks) for time in (one.get("ends"), one.get("until")) if time
        ]
        uses = [one["used"] for grant in self.grants.values() for one in grant["bindings"] if one["used"]]
        return sorted({*found, *(used + MINUTE / 2 for used in uses)})
