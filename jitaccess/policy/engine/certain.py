"""What a principal may do whatever the arguments and the time are: policy with all that is conditional taken away."""

from __future__ import annotations

from dataclasses import replace

from jitaccess.policy.engine.arguments import Mode
from jitaccess.policy.engine.rights import Who, subjects_of
from jitaccess.policy.engine.rules import BindingFacts, RoleFacts, RoleRule, Snapshot


def certain(snapshot: Snapshot, who: Who) -> Snapshot:
    """The snapshot in which rules with conditions allow nothing and deny everything they are about, for this principal.

    What it allows is allowed for any arguments, and for as long as its bindings last.
    """
    held = {place: snapshot.bindings[place] for place in subjects_of(snapshot, who) if place in snapshot.bindings}
    plain = {place: tuple(map(_plain, bindings)) for place, bindings in held.items()}
    # Without the memo: it would hold answers to another question.
    return replace(snapshot, bindings={**snapshot.bindings, **plain}, memo={})


def _plain(binding: BindingFacts) -> BindingFacts:
    limited = binding.arguments is not None and binding.arguments.mode is not Mode.ANY
    return replace(
        binding,
        role=_plain_role(binding.role),
        pinned=_plain_role(binding.pinned),
        tools={} if limited else binding.tools,
        arguments=None,
    )


def _plain_role(role: RoleFacts | None) -> RoleFacts | None:
    if role is None:
        return None
    allow = tuple(rule for rule in role.allow if rule.where is None and rule.arguments is None)
    return replace(role, allow=allow, deny=tuple(map(_whole, role.deny)))


def _whole(rule: RoleRule) -> RoleRule:
    """Labels are no condition: they are the server's and the tool's, whatever the call is."""
    return replace(rule, where=None, arguments=None)
