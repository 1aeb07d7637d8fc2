"""After each move the database holds what the model says, and allows what it allows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

from django.db import transaction
from hypothesis.stateful import RuleBasedStateMachine, invariant

from jitaccess.identity.models import User
from jitaccess.kernel.errors import JitAccessError
from requests_app.models import AccessRequest
from tests.requests_app.machine.model import Model
from tests.requests_app.machine.stage import (
    ARGUMENTS,
    DIGESTS,
    LedgerDownError,
    Stage,
    without_ledger,
)
from tests.requests_app.machine.world import Row

TOOLS = ["git_commit", "git_add", "git_reset", "git_log"]


class Checked(RuleBasedStateMachine):
    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = transaction.savepoint()
        self.model: Model = self.stage.begin()
        self.cast = self.stage.cast
        self.broken: int | None = None
        self.grant_ids: dict[Any, Any] = {}
        self.binding_rows: dict[Any, Row] = {}
        self.closed: dict[Any, str] = {}
        self.policies = 0

    def teardown(self) -> None:
        transaction.savepoint_rollback(self.savepoint)

    @property
    def open(self) -> list[Any]:
        """Those that are pending, the latest first; also past their deadline, when no worker came by."""
        return [pk for pk, one in self.model.requests.items() if one["status"] == "pending"][::-1]

    def request(self, number: int) -> Any:
        return self.open[number % len(self.open)]

    def grant(self, number: int) -> Any:
        """Mostly one that is live, the latest of those first."""
        latest = list(self.model.grants.items())[::-1]
        live = [pk for pk, one in latest if self.model.live(one)]
        return live[number] if number < len(live) else latest[number % len(latest)][0]

    def holder(self, pk: Any, user: str | None, odd: bool) -> str | None:
        """Mostly who holds the grant."""
        return user if odd else self.model.grants[pk]["user"]

    def attempt(self, do: Callable[[], Any], expected: Callable[[Any], str]) -> Any:
        """What was done ends as the model says; when the ledger is down, nothing has happened at all."""
        fault, self.broken = self.broken, None
        result, outcome = None, "ok"
        try:
            with without_ledger(fault) if fault is not None else nullcontext():
                result = do()
        except LedgerDownError:
            return None
        except JitAccessError as error:
            outcome = "void" if error.code == "request.invalidated" else "refused"
            result = error
        if isinstance(result, AccessRequest):
            result, asked = result.pk, result
            said = expected(result)
            things = self.model.requests[result]["things"] if result in self.model.requests else ()
            assert sorted(asked.tool_labels) == sorted(label_of(label) for label in things)
        else:
            said = expected(result if outcome == "ok" else None)
        assert outcome == said, (outcome, said, result)
        return result if outcome == "ok" else None

    def person(self, who: str) -> User:
        return self.stage.people[who]

    # -- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_what_the_model_says(self) -> None:
        self.stage.settle()
        requests, grants = self.stage.requests(), self.stage.grants()
        model = self.model
        assert requests == {pk: (one["status"], one["closed"], one["until"]) for pk, one in model.requests.items()}
        for pk, (status, *_) in requests.items():
            assert self.closed.get(pk, status) == status, "an end is final"
            if status != "pending":
                self.closed[pk] = status
        self.grant_ids = {request: pk for pk, (request, *_) in grants.items()}
        assert len(self.grant_ids) == len(grants), "at most one grant of a request"
        ids = model.ids
        assert {request: (*rest, bool(begun)) for request, *rest, begun in grants.values()} == {
            pk: (
                ids.get(one["user"]),
                one["starts"],
                one["expires"],
                one["latest"],
                one["ended"],
                one["reason"],
                one["begun"],
            )
            for pk, one in model.grants.items()
        }
        self.bindings_are_right({pk: request for request, pk in self.grant_ids.items()})
        self.decisions_are_right()
        told = self.stage.told()
        assert told == model.told, (told - model.told, model.told - told)

    def bindings_are_right(self, requests: dict[Any, Any]) -> None:
        left: Counter[Any] = Counter()
        for pk, origin, user, starts, expires, ended, most, uses, *content in self.stage.bindings():
            grant = self.model.grants[requests[origin]]
            if pk not in self.binding_rows:
                self.binding_rows[pk] = self.same(grant, *content)
            mine = self.binding_rows[pk]
            assert (user, starts, expires) == (self.model.ids.get(grant["user"]), grant["starts"], grant["expires"])
            assert (most, uses) == (mine["most"], mine["left"])
            assert bool(ended) == (grant["ended"] is not None and grant["reason"] != "expired")
            left[requests[origin]] += 1
        assert left == {pk: len(grant["bindings"]) for pk, grant in self.model.grants.items()}

    def same(self, grant: Row, version: int | None, tools: str, arguments: str) -> Row:
        """The binding of the model that this row is."""
        names = {str(tool.pk): name for name, tool in self.cast.tools.items()}
        held = {names[pk]: pin for pk, pin in json.loads(tools).items()}
        digest = json.loads(arguments)["digest"] if arguments else None
        for one in grant["bindings"]:
            wanted = DIGESTS[one["arguments"]] if "arguments" in one else None
            if (one.get("role"), one.get("tools", {}), wanted) == (version, held, digest):
                found: Row = one
                return found
        raise AssertionError(f"nobody approved {version, held, arguments}")

    def decisions_are_right(self) -> None:
        names = {pk: name for name, pk in self.model.ids.items()}
        rows = self.stage.decisions()
        live = [((request, stage, names[who]), (names[seat or who], verdict == "approve"))
                for request, stage, who, seat, verdict, alive in rows if alive]  # fmt: skip
        assert len(dict(live)) == len(live), "one live decision of each person at each stage"
        assert dict(live) == {
            (pk, stage, who): (vote["seat"], vote["yes"])
            for pk, one in self.model.requests.items()
            for (stage, who), vote in one["votes"].items()
        }
        kept = {pk: one["kept"] for pk, one in self.model.requests.items() if one["kept"]}
        assert Counter(request for request, *_ in rows) == kept

    @invariant()
    def what_is_allowed_is_what_the_model_allows(self) -> None:
        snapshot = self.stage.look(None, "bert")
        bindings = [one for grant in self.model.grants.values() for one in grant["bindings"] if "arguments" in one]
        exact = {tool for one in bindings for tool in one["tools"]}
        for user in (None, "bert"):
            for tool in TOOLS:
                for arguments in (None, *(ARGUMENTS if tool in exact else "a")):
                    verdict = self.stage.verdict(snapshot, user, tool, arguments)
                    allowing = self.model.allowing(user, tool, arguments)
                    assert verdict.allowed is bool(allowing), (user, tool, arguments, verdict, allowing)
                    if verdict.grant and verdict.allowed:
                        (named,) = verdict.bindings
                        assert any(self.binding_rows[named] is one for one in allowing), "it names what allows it"


def label_of(label: str) -> str:
    """The label that the request itself uses."""
    tool, _, key = label.partition("#")
    short = f"#{DIGESTS[key].rpartition(':')[2][:8]}" if key else ""
    return label if label.startswith("role:") else f"git/{tool}{short}"
