"""Parts of what goes out that are only ever inside of something, and the words that members may have."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from requests_app.lifecycle import DecisionVerdict, RequestKind, RequestStatus, Risk

_Shape = s.Serializer[Any]

STATUSES = tuple(map(str, RequestStatus))
KINDS = tuple(map(str, RequestKind))
RISKS = tuple(map(str, Risk))
VERDICTS = tuple(map(str, DecisionVerdict))
GRANT_STATES = ("scheduled", "active", "ended")
ITEM_KINDS = ("tool", "call", "role", "database")
PROVISION_STATES = ("none", "granting", "granted", "revoking", "revoked")


class Extension(_Shape):
    request_id = s.UUIDField()
    status = s.ChoiceField(choices=STATUSES)
    minutes = s.IntegerField()
    decided_by = s.CharField()


class Provision(_Shape):
    """What a grant gives on another system, and how far that is."""

    target = s.CharField()
    entitlement = s.CharField()
    state = s.ChoiceField(choices=PROVISION_STATES)
    changed_at = s.DateTimeField()
    error = s.CharField(help_text="What went wrong last; empty: nothing did.")
    gave_up = s.BooleanField(help_text="It is not tried any more until somebody says so.")


class Call(_Shape):
    tool = s.CharField(help_text="As server/tool.")
    arguments = s.DictField()


class Changes(_Shape):
    asked_by = s.CharField()
    note = s.CharField()


class AskedArguments(_Shape):
    """Which arguments are asked for: exactly `value`, or what fits `schema`."""

    mode = s.ChoiceField(choices=["exact", "schema"])
    digest = s.CharField(required=False)
    value = s.DictField(required=False)
    schema = s.DictField(required=False)


class AskedItem(_Shape):
    """One thing that is asked for; what it has depends on its kind."""

    kind = s.ChoiceField(choices=ITEM_KINDS)
    server = s.CharField(required=False)
    tool = s.CharField(required=False)
    access = s.CharField(required=False)
    pin = s.CharField(required=False, help_text="The digest of the definition that was asked for.")
    arguments = AskedArguments(required=False, help_text="Absent: any.")
    role = s.CharField(required=False)
    version = s.IntegerField(required=False, help_text="Of the role.")
    database = s.CharField(required=False)
    objects = s.ListField(child=s.CharField(), required=False)
    privileges = s.ListField(child=s.CharField(), required=False)


class Escalation(_Shape):
    at = s.DateTimeField()
    due = s.BooleanField(help_text="They are asked by now.")
    groups = s.ListField(child=s.CharField())


class Plan(_Shape):
    """The rule of the approval policy that applies, as pinned at filing: a later policy does not change it."""

    rule = s.CharField()
    version = s.IntegerField()
    auto_approve = s.BooleanField()
    stages = s.IntegerField()
    deny_threshold = s.IntegerField(help_text="So many people end it with their no.")
    channels = s.ListField(child=s.CharField(), help_text="Where it may be approved.")
    step_up = s.BooleanField(help_text="Whoever approves has to have given their password again just now.")
    escalations = Escalation(many=True)
    fallback = s.CharField(allow_null=True)


class Approval(_Shape):
    stage = s.IntegerField()
    group = s.CharField()
    needed = s.IntegerField()
    given = s.IntegerField()


class Terms(_Shape):
    """What an approval left of a request."""

    minutes = s.IntegerField()
    max_uses = s.IntegerField(allow_null=True)
    tools = s.ListField(child=s.CharField())


class Limits(_Shape):
    max_minutes = s.IntegerField()
    max_uses = s.IntegerField(allow_null=True)


class AccessToken(_Shape):
    token_id = s.UUIDField()
    agent = s.CharField()
    on_behalf_of = s.CharField(allow_null=True)
    issued_by = s.CharField()
    created_at = s.DateTimeField()
    expires_at = s.DateTimeField()
    revoked_at = s.DateTimeField(allow_null=True)
    live = s.BooleanField(help_text="Neither over nor revoked.")
