"""Who asks, and about whom. A subject in a body never gives authority: it has to be the caller, or the caller's to ask
about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from jitaccess.api import policy_now
from jitaccess.api.authzen.entities import Entity, Question
from jitaccess.api.authzen.vocabulary import Target, Vocabulary, vocabulary
from jitaccess.api.caller import Caller
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Forbidden, JitAccessError
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.rules import AgentFacts, LockKind, Snapshot, Subject, UserFacts

SUBJECT_TYPES = ("agent", "user")
# What can be done to what is ours, besides connecting to a server.
OWN_ACTIONS = {"tool": "call", "resource": "read", "prompt": "get"}
# Read in the admin by whoever may know all rights of all.
READS_ALL_RIGHTS = "jit_policy.rolebinding"


@dataclass(frozen=True, slots=True)
class Asking:
    """A caller, and policy as it is now. `enforces`: it is an enforcement point of the operator's file."""

    caller: Caller
    vocabulary: Vocabulary
    snapshot: Snapshot
    at: datetime
    enforces: bool

    @property
    def anybody(self) -> bool:
        """Whether this caller may ask about every subject."""
        return self.enforces or any(
            self.caller.may(READS_ALL_RIGHTS.replace(".", f".{verb}_")) for verb in ("view", "change")
        )

    @property
    def own(self) -> Who | None:
        """The caller as a subject; None for people, who call no tools themselves."""
        principal = self.caller.principal
        return Who(principal.agent, principal.user) if principal.agent else None

    def who(self, subject: Entity) -> Who | None:
        """Whom the subject means; None for one that is nobody here, or of a type that we do not know.

        Raises Forbidden for a subject the caller may not ask about, in one sentence whether it is here or not.
        """
        if subject.type not in SUBJECT_TYPES:
            return None
        found = self._resolved(subject)
        if not self.anybody and (found is None or found != self.own):
            raise Forbidden("authzen.foreign_subject", "You may ask about yourself; this subject is not you.")
        return found

    def _resolved(self, subject: Entity) -> Who | None:
        named = subject.properties or {}
        if subject.type == "agent":
            agent, user = self._agent(subject.id), None
            if "on_behalf_of" in named:
                user = self._user(str(named["on_behalf_of"]))
                if user is None:
                    return None
        else:
            user = self._user(subject.id)
            if user is None:
                return None
            agent = self._actor(named, user)
        return Who(agent, user) if agent else None

    def _actor(self, named: JsonObject, user: UUID) -> UUID | None:
        """Through which agent a user acts: as `act` says, else the caller itself, else as the operator's file says."""
        own = self.caller.principal
        if "act" in named:
            act = named["act"]
            return self._agent(str(act.get("sub"))) if isinstance(act, dict) and "act" not in act else None
        if own.agent and own.user == user:
            return own.agent
        return self.through()

    def through(self) -> UUID | None:
        """The agent that the operator named for people who name none."""
        name = self.vocabulary.subjects.get("user")
        return self._agent(name) if name else None

    def _agent(self, name: str) -> UUID | None:
        return _found(name, self.snapshot.agents)

    def _user(self, name: str) -> UUID | None:
        return _found(name, self.snapshot.users)

    def target(self, question: Question) -> Target | str:
        """The call that is asked about, or the reason why there is none, which does not depend on what there is."""
        resource, action = question.resource, question.action
        if resource.type in OWN_ACTIONS:
            server, slash, name = resource.id.partition("/")
            if action.name != OWN_ACTIONS[resource.type]:
                return "unknown_action"
            given = (resource.properties or {}).get("arguments")
            if given is not None and not isinstance(given, dict):
                return "malformed_arguments"
            return Target(server, name, given or {}, given is not None, resource.type) if slash else "unknown"
        kind = self.vocabulary.resources.get(resource.type)
        if kind is None:
            return "unknown_resource_type"
        return kind.target(question, trusted=self.enforces) or "unknown_action"

    def principal(self, who: Who) -> Principal:
        """Who files a request: the caller itself, or the subject of an enforcement point's question.

        Whoever issued the enforcement point's token counts as the requester too (self is one person).
        """
        own = self.caller.principal
        if who == self.own:
            return own
        user = self.snapshot.users.get(who.user) if who.user else None
        return Principal(
            agent=who.agent,
            agent_name=self.snapshot.agents[who.agent].name,
            user=who.user,
            user_name=user.name if user else "",
            client=f"authzen by {own.label}",
            source=own.source,
            issued_by=own.issued_by or own.user,
        )


def asking(caller: Caller) -> Asking:
    """Policy without what anybody has used up, to find out who is meant. Not inside a transaction."""
    words = vocabulary()
    snapshot, at = policy_now.STORE.look()
    own = snapshot.agents.get(caller.principal.agent) if caller.principal.agent else None
    enforces = own is not None and own.name in words.enforcement_points and _trusted(snapshot, own, at)
    return Asking(caller, words, snapshot, at, enforces)


def _trusted(snapshot: Snapshot, agent: AgentFacts, at: datetime) -> bool:
    """Whether an enforcement point is one at this moment. A lock on everything closes what it asks about, not it."""
    owner = snapshot.users.get(agent.owner)
    locked = any(lock.kind is LockKind.AGENT and lock.target == agent.id and lock.live(at) for lock in snapshot.locks)
    return agent.enabled and owner is not None and owner.active and not locked


def about(one: Asking, subjects: Iterable[Who | None]) -> Asking:
    """The same, with what these subjects have used up, and the clock, read now."""
    whose = {Subject(agent=who.agent, user=who.user) for who in subjects if who}
    snapshot, at = policy_now.STORE.look(*whose)
    return Asking(one.caller, one.vocabulary, snapshot, at, one.enforces)


def heard(one: Asking, items: Iterable[Question | JitAccessError]) -> list[Who | None]:
    """Whom each question is about. Raises Forbidden if it is so for any: no answer to the others either."""
    return [one.who(item.subject) if isinstance(item, Question) else None for item in items]


def _found(name: str, known: Mapping[UUID, AgentFacts] | Mapping[UUID, UserFacts]) -> UUID | None:
    """By id, then by name: somebody whose name is the id of somebody else must not be taken for them."""
    try:
        return found if (found := UUID(name)) in known else None
    except ValueError:
        return next((one.id for one in known.values() if one.name == name), None)
