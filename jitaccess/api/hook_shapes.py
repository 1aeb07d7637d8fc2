"""What goes out about webhooks, declared for the OpenAPI file."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

_Shape = s.Serializer[Any]
STATES = ("waiting", "delivered", "failed")


class Webhook(_Shape):
    """An address that is told of events. `host` alone is told: the rest of its URL may hold a secret."""

    webhook_id = s.UUIDField()
    name = s.CharField()
    host = s.CharField()
    events = s.CharField()
    team = s.CharField(allow_null=True, help_text="Only of its agents.")
    enabled = s.BooleanField()
    disabled_why = s.CharField()
    failing_since = s.DateTimeField(allow_null=True, help_text="Nothing has got through since.")
    created_at = s.DateTimeField()
    created_by = s.CharField(allow_null=True)
    both_secrets_until = s.DateTimeField(allow_null=True, help_text="The secret before signs too until then.")


class WebhookWithSecret(Webhook):
    """Told once, and kept nowhere in the clear."""

    secret = s.CharField(allow_null=True, help_text="whsec_… (Standard Webhooks); null where none was made.")


class Removed(_Shape):
    webhook_id = s.UUIDField()
    removed = s.BooleanField()


class Replayed(_Shape):
    messages = s.IntegerField(help_text="That are sent again.")


class Delivery(_Shape):
    """One message that is owed."""

    delivery_id = s.UUIDField()
    message_id = s.CharField(help_text="The same at every try and replay.")
    event = s.CharField()
    state = s.ChoiceField(choices=STATES)
    replay = s.BooleanField()
    attempts = s.IntegerField()
    created_at = s.DateTimeField()
    due_at = s.DateTimeField(allow_null=True)
    delivered_at = s.DateTimeField(allow_null=True)
    gave_up_at = s.DateTimeField(allow_null=True)
    status = s.IntegerField(allow_null=True, help_text="Of the latest answer.")
    error = s.CharField()


class FullDelivery(Delivery):
    answer = s.CharField(help_text="How the latest answer began.")
    body = s.DictField(allow_null=True, help_text="type, timestamp and data, as Standard Webhooks has it.")
