"""What goes out, declared for the OpenAPI file. The values are made by requests_app.represent and by the views."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from jitaccess.api.shape_parts import (
    GRANT_STATES,
    KINDS,
    RISKS,
    STATUSES,
    VERDICTS,
    Approval,
    AskedItem,
    Call,
    Changes,
    Extension,
    Limits,
    Plan,
    Provision,
    Terms,
)
from jitaccess.catalog.options import MEANINGS

_Shape = s.Serializer[Any]
# Some members are called as something of the framework is: their metaclass takes them out of the class.


class Grant(_Shape):
    """Access that was approved. `seconds_left` and `calls_left` while it is live, `end_reason` once it has ended."""

    grant_id = s.UUIDField()
    state = s.ChoiceField(choices=GRANT_STATES)
    expires_at = s.DateTimeField()
    seconds_left = s.IntegerField(required=False)
    calls_left = s.IntegerField(required=False, help_text="Absent: any number.")
    end_reason = s.CharField(required=False)


class FullGrant(Grant):
    request_id = s.UUIDField()
    agent = s.CharField()
    on_behalf_of = s.CharField(allow_null=True)
    tools = s.ListField(child=s.CharField(), help_text="What approvals left of what was asked for.")
    starts_at = s.DateTimeField()
    ended_at = s.DateTimeField(allow_null=True)
    ended_by = s.CharField()
    latest = s.DateTimeField(allow_null=True, help_text="The end of its life, whatever extends it.")
    note = s.CharField(required=False, help_text="Said by whoever revoked it; for people.")
    extensions = Extension(many=True, required=False, help_text="Requests for more time; not in lists.")
    provisions = Provision(many=True, required=False, help_text="On other systems; for people, not in lists.")


class AccessRequest(_Shape):
    """What was asked, and how it stands by the clock."""

    request_id = s.UUIDField()
    status = s.ChoiceField(choices=STATUSES)
    kind = s.ChoiceField(choices=KINDS)
    risk = s.ChoiceField(choices=RISKS)
    agent = s.CharField()
    on_behalf_of = s.CharField(allow_null=True)
    tools = s.ListField(
        child=s.CharField(), help_text="As server/tool, server/tool#digest for a call, role:name, database/object."
    )
    calls = Call(many=True, required=False, help_text="Exact calls, with the very arguments.")
    reason = s.CharField(help_text="Written by the agent, checked by nobody.")
    minutes = s.IntegerField()
    max_uses = s.IntegerField(required=False, help_text="Absent: any number of calls.")
    created_at = s.DateTimeField()
    starts_at = s.DateTimeField(required=False, help_text="Absent: with the approval.")
    extends = s.UUIDField(required=False, help_text="The grant that would last longer.")
    bundle = s.UUIDField(required=False, help_text="Filed together with others.")
    changes = Changes(required=False, help_text="What an approver wants asked for instead.")
    pending_until = s.DateTimeField(required=False, help_text="While it is pending.")
    decided_by = s.CharField(required=False, help_text="Who closed it.")
    note = s.CharField(required=False)
    url = s.URLField(help_text="Where people decide.")
    grant = Grant(required=False)


class Decision(_Shape):
    by = s.CharField()
    on_behalf_of = s.CharField(allow_null=True, help_text="In whose place.")
    stage = s.IntegerField()
    terms = Terms(required=False, help_text="Absent: all that was asked for.")
    channel = s.CharField(required=False, help_text="For people.")
    verdict = s.ChoiceField(choices=VERDICTS)
    at = s.DateTimeField()
    counts = s.BooleanField(help_text="False: this person decided otherwise later.")
    reason = s.CharField(required=False)


class Standing(_Shape):
    """What you are to this request."""

    may_decide = s.BooleanField()
    may_revoke = s.BooleanField()
    self_because = s.CharField(help_text="Why you count as the requester; empty if you do not.")
    decided = s.ChoiceField(choices=VERDICTS, allow_null=True, help_text="By you, at the present stage.")


class FullRequest(AccessRequest):
    digest = s.CharField(help_text="Of everything that was asked; an approval names it.")
    policy = s.CharField()
    plan = Plan(allow_null=True)
    items = AskedItem(many=True)
    ticket = s.CharField()
    not_after = s.DateTimeField(allow_null=True)
    supersedes = s.UUIDField(allow_null=True)
    filed_by = s.CharField(allow_null=True, help_text="A person, for the agent.")
    context = s.DictField(help_text="What the agent sent along.")  # type: ignore[assignment]  # see above
    who_can_approve = s.ListField(child=s.CharField(), required=False)
    approvals = Approval(many=True, required=False)
    decisions = Decision(many=True)
    standing = Standing(required=False, help_text="For people.")
    card = s.DictField(
        required=False,
        help_text="For people who ask for one request: what the page shows of it. `title`, `status`, `who`, `risk`, "
        "`things`, `adds` (`new`, `already`, `blocked`), `length`, `unusual`, `why`, `progress`, `effects`, and "
        "`incomplete`, which says why it cannot be read whole.",
    )


class Submitted(FullRequest):
    """`coalesced`: the same was pending already, and that request stands."""

    coalesced = s.BooleanField()


class SubmittedBundle(_Shape):
    """Several requests, because different people decide."""

    bundle = s.UUIDField(allow_null=True, help_text="Null: all of it was pending already.")
    requests = Submitted(many=True)


class DryRun(_Shape):
    """What a submission would come to. Nothing of it is on record."""

    dry_run = s.BooleanField()
    coalesced = s.BooleanField(help_text="The same is pending already.")
    kind = s.ChoiceField(choices=KINDS)
    risk = s.ChoiceField(choices=RISKS)
    tools = s.ListField(child=s.CharField())
    items = AskedItem(many=True)
    minutes = s.IntegerField()
    max_uses = s.IntegerField(allow_null=True)
    policy = s.CharField()
    plan = Plan(allow_null=True)
    who_can_approve = s.ListField(child=s.CharField())
    approvals = Approval(many=True)
    limits = Limits()


class DryRunBundle(_Shape):
    """What several requests would come to."""

    dry_run = s.BooleanField()
    requests = DryRun(many=True)


class Moment(_Shape):
    uid = s.UUIDField()
    at = s.DateTimeField()
    event = s.CharField()
    outcome = s.CharField()
    agent = s.CharField()
    user = s.CharField()
    server = s.CharField()
    tool = s.CharField()
    call = s.UUIDField(allow_null=True)
    data = s.DictField()  # type: ignore[assignment]  # see above


class Timeline(_Shape):
    items = Moment(many=True)
    calls_cut = s.BooleanField(help_text="Only the latest calls are here.")


class Comment(_Shape):
    uid = s.UUIDField(help_text="Of the entry in the ledger.")


class RequestableTool(_Shape):
    server = s.CharField()
    tool = s.CharField(help_text="As server/tool.")
    access = s.CharField()
    description = s.CharField()
    max_minutes = s.IntegerField()
    max_uses = s.IntegerField(required=False)
    arguments = s.CharField(required=False, help_text="exact or schema: it is asked for so. Absent: any.")
    decided_by = s.ListField(child=s.CharField())


class RequestableRole(_Shape):
    role = s.CharField()
    max_minutes = s.IntegerField()
    decided_by = s.ListField(child=s.CharField())


class Requestables(_Shape):
    items = RequestableTool(many=True)
    roles = RequestableRole(many=True, help_text="Not those of one server.")


class Agent(_Shape):
    agent_id = s.UUIDField()
    name = s.CharField()
    description = s.CharField()
    owner = s.CharField()
    team = s.CharField()
    enabled = s.BooleanField()
    created_at = s.DateTimeField()


class Token(_Shape):
    token = s.CharField(help_text="Shown this once.")
    token_id = s.UUIDField(help_text="What it is revoked by.")
    agent = s.CharField()
    on_behalf_of = s.CharField(allow_null=True)
    expires_at = s.DateTimeField()


class ServerOptions(_Shape):
    call_seconds = s.IntegerField(help_text=MEANINGS["call_seconds"])
    let_finish_seconds = s.IntegerField(help_text=MEANINGS["let_finish_seconds"])
    max_result_bytes = s.IntegerField(help_text=MEANINGS["max_result_bytes"])
    identity_header = s.BooleanField(help_text=MEANINGS["identity_header"])
    repeat_limit = s.IntegerField(help_text=MEANINGS["repeat_limit"])
    accept_definitions = s.BooleanField(help_text=MEANINGS["accept_definitions"])


class Server(_Shape):
    server_id = s.UUIDField()
    slug = s.CharField()
    description = s.CharField()
    enabled = s.BooleanField()
    options = ServerOptions()


class Tool(_Shape):
    tool_id = s.UUIDField()
    server = s.CharField()
    name = s.CharField()
    access = s.CharField()
    present = s.BooleanField(help_text="The server still offers it.")
    quarantined = s.BooleanField(help_text="Its definition is not the one that was reviewed; nobody may call it.")
    digest = s.CharField(help_text="Of the definition as it is now.")
    pin = s.CharField(help_text="Of the definition that was reviewed; empty: none was.")


class FullTool(Tool):
    definition = s.DictField(help_text="As the server gave it: foreign text.")


class Role(_Shape):
    role_id = s.UUIDField()
    name = s.CharField()
    head = s.IntegerField(help_text="The version in force.")


class RoleVersion(_Shape):
    version = s.IntegerField()
    saved_by = s.CharField()
    saved_at = s.DateTimeField()


class FullRole(Role):
    document = s.CharField(help_text="YAML.")
    versions = RoleVersion(many=True)


class Binding(_Shape):
    binding_id = s.UUIDField()
    subject = s.CharField()
    origin = s.ChoiceField(choices=["default", "standing", "grant"])
    role = s.CharField(allow_null=True)
    grant_id = s.UUIDField(allow_null=True)
    starts_at = s.DateTimeField()
    expires_at = s.DateTimeField(allow_null=True)
    ended_at = s.DateTimeField(allow_null=True)
    max_uses = s.IntegerField(allow_null=True)


class Lock(_Shape):
    """An emergency stop. `live` while it is in force, by the clock."""

    lock_id = s.UUIDField()
    kind = s.ChoiceField(choices=["agent", "user", "server", "role", "grant", "everything"])
    target = s.UUIDField(allow_null=True)
    name = s.CharField(help_text="What the target was called when it was locked.")
    live = s.BooleanField()
    reason = s.CharField()
    created_at = s.DateTimeField()
    created_by = s.CharField()
    expires_at = s.DateTimeField(allow_null=True)
    lifted_at = s.DateTimeField(allow_null=True)
    lifted_by = s.CharField()


class Delegation(_Shape):
    """One person's approvals in the hands of another for a while."""

    delegation_id = s.UUIDField()
    person = s.CharField()
    delegate = s.CharField(allow_null=True, help_text="Null: away, and nobody is asked instead.")
    in_force = s.BooleanField()
    starts_at = s.DateTimeField()
    ends_at = s.DateTimeField()
    ended_at = s.DateTimeField(allow_null=True, help_text="When somebody ended it early.")
    note = s.CharField()
    made_by = s.CharField()


class Considered(_Shape):
    part = s.CharField(help_text="deny, ceiling, agent's rights, user's rights, grant.")
    whose = s.CharField()
    rule = s.CharField()
    applies = s.BooleanField()
    decided = s.BooleanField()
    missing = s.CharField(help_text="Why it does not apply.")


class Explanation(_Shape):
    """Why a call would be allowed or refused."""

    allowed = s.BooleanField()
    code = s.CharField()
    rule = s.CharField(help_text="What decided.")
    requestable = s.BooleanField()
    grant_id = s.UUIDField(allow_null=True)
    until = s.DateTimeField(allow_null=True, help_text="Null: as long as nothing changes.")
    considered = Considered(many=True)
    advice = s.ListField(child=s.CharField())


class Entry(_Shape):
    """One line of the ledger: plain values, with names beside ids."""

    uid = s.UUIDField()
    at = s.DateTimeField()
    event = s.CharField()
    outcome = s.CharField()
    agent = s.UUIDField(allow_null=True)
    agent_name = s.CharField()
    user = s.UUIDField(allow_null=True)
    user_name = s.CharField()
    client = s.CharField()
    source = s.CharField()  # type: ignore[assignment]  # see above
    request = s.UUIDField(allow_null=True)
    grant = s.UUIDField(allow_null=True)
    call = s.UUIDField(allow_null=True)
    server = s.UUIDField(allow_null=True)
    server_name = s.CharField()
    tool = s.CharField()
    tool_pin = s.CharField()
    bindings = s.ListField(child=s.UUIDField())
    policy_version = s.IntegerField(allow_null=True)
    instance = s.UUIDField(allow_null=True)
    data = s.DictField()  # type: ignore[assignment]  # see above


class Proof(_Shape):
    """As `jitaccess audit prove` gives it; `jitaccess audit verify --proof` checks it with public keys alone."""

    proof = s.CharField()
    seq = s.IntegerField()
    entry = s.DictField()
    checkpoint = s.CharField()
    path = s.ListField(child=s.CharField())


class Checkpoint(_Shape):
    size = s.IntegerField()
    at = s.DateTimeField()
    note = s.CharField(help_text="A signed note (C2SP).")


class Checkpoints(_Shape):
    items = Checkpoint(many=True)


class Me(_Shape):
    kind = s.ChoiceField(choices=["person", "agent"])
    label = s.CharField()  # type: ignore[assignment]  # see above
    agent = s.CharField(allow_null=True)
    user = s.CharField(allow_null=True)
    token_expires_at = s.DateTimeField(allow_null=True)


class Index(_Shape):
    links = s.DictField(child=s.CharField())
