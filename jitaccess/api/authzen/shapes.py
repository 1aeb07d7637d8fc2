"""How bodies and answers look, for the OpenAPI file. What comes in is read by `entities`: members may be added."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from jitaccess.api.parsing import Input


class Extensible(Input):
    """Unknown members are ignored (Authorization API 1.0, "JSON Serialization")."""


def _object(**options: Any) -> Any:
    return serializers.DictField(**options)


class AuthZenEntity(serializers.Serializer[Any]):
    """A Subject or a Resource."""

    type = serializers.CharField(help_text="`agent` or `user`; `tool`, `server`, or a type of the operator's file.")
    id = serializers.CharField(help_text="A name or an id; of a tool `server/tool`.")
    properties = _object(required=False)


class AuthZenAction(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="`call` for a tool, `connect` for a server.")
    properties = _object(required=False)


class Evaluation(Extensible):
    subject = AuthZenEntity()
    action = AuthZenAction()
    resource = AuthZenEntity()
    context = _object(required=False)


class EvaluationItem(serializers.Serializer[Any]):
    subject = AuthZenEntity(required=False)
    action = AuthZenAction(required=False)
    resource = AuthZenEntity(required=False)
    context = _object(required=False)


class Evaluations(Extensible):
    subject = AuthZenEntity(required=False)
    action = AuthZenAction(required=False)
    resource = AuthZenEntity(required=False)
    context = _object(required=False)
    evaluations = EvaluationItem(many=True, required=False)
    options = _object(required=False, help_text="`evaluations_semantic`: one of the three of the specification.")


class AuthZenDecision(serializers.Serializer[Any]):
    """A denial is an answer (200), not an error."""

    decision = serializers.BooleanField()
    context = _object(
        required=False, help_text="`reason`; `access_request` where it may be asked for; `approval`; `next_action`."
    )


class Decisions(serializers.Serializer[Any]):
    """One decision for each evaluation, in their order; the one decision when there was no list."""

    evaluations = AuthZenDecision(many=True, required=False)
    decision = serializers.BooleanField(required=False)
    context = _object(required=False)


class AccessRequestItem(serializers.Serializer[Any]):
    resource = AuthZenEntity()
    action = AuthZenAction()
    requested_access = _object(required=False)
    denial = _object(required=False)


class AccessRequestSubmission(Extensible):
    subject = AuthZenEntity()
    resource = AuthZenEntity(required=False)
    action = AuthZenAction(required=False)
    items = AccessRequestItem(many=True, required=False)
    context = _object(required=False, help_text="`business_justification`: what the approver decides on.")
    denial = _object(required=False, help_text="`binding_token` and `expires_at` of the denial, unchanged.")
    requested_access = _object(required=False, help_text="`requested_until`.")
    client = _object(required=False)


class Cancellation(Extensible):
    reason = serializers.CharField(required=False)
    comment = serializers.CharField(required=False)


class TaskItem(serializers.Serializer[Any]):
    resource = AuthZenEntity()
    action = AuthZenAction()
    status = serializers.CharField()
    result = _object(required=False)


class Task(serializers.Serializer[Any]):
    id = serializers.CharField()
    status = serializers.CharField(help_text="pending, approved, denied, expired or cancelled.")
    status_endpoint = serializers.CharField()
    expires_at = serializers.CharField(required=False)
    display = _object(required=False)
    links = _object(required=False)
    items = TaskItem(many=True, required=False)


class TaskAnswer(serializers.Serializer[Any]):
    task = Task()
    result = _object(required=False)


class Metadata(serializers.Serializer[Any]):
    policy_decision_point = serializers.CharField()
    access_evaluation_endpoint = serializers.CharField()
    access_evaluations_endpoint = serializers.CharField()
    access_request_endpoint = serializers.CharField()
    jwks_uri = serializers.CharField()
    capabilities = serializers.ListField(child=serializers.CharField())


class KeySet(serializers.Serializer[Any]):
    keys = serializers.ListField(child=serializers.DictField())


class AnyObject(serializers.Serializer[Any]):
    """A JSON object."""
