from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from jitaccess.identity.models import User
from jitaccess.kernel.ids import uuid7


class SlackLink(models.Model):
    """A person said, while signed in here, that they are this user of this workspace. Nothing else makes them known."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    team = models.CharField(max_length=32)
    slack_user = models.CharField(max_length=32)
    slack_name = models.CharField(max_length=100, help_text="As it was then: for people, never for deciding.")
    linked_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "slack_user"], condition=Q(ended_at=None), name="jit_slack_user_is_one_person"
            ),
            models.UniqueConstraint(
                fields=["user", "team"], condition=Q(ended_at=None), name="jit_person_is_one_slack_user"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.slack_user}"


class LinkCode(models.Model):
    """What `/access link` gives out. `user` opened it signed in and was told a word (`confirmation`), which has to be
    typed in Slack by who asked for the link: so that a link alone links nobody. Only hashes are kept.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    hash = models.CharField(max_length=64, unique=True, editable=False)
    team = models.CharField(max_length=32)
    team_name = models.CharField(max_length=100)
    slack_user = models.CharField(max_length=32)
    slack_name = models.CharField(max_length=100)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    user = models.ForeignKey(User, null=True, on_delete=models.CASCADE, related_name="+")
    confirmation = models.CharField(max_length=64, blank=True, default="", db_default="", editable=False)
    tries = models.PositiveSmallIntegerField(default=0, db_default=0)

    def __str__(self) -> str:
        return f"link code of {self.slack_user}"


class SlackCard(models.Model):
    """A message that is to be in Slack, and how it is there: sent again while `wanted_seq` is ahead of `seen_seq`.

    Both are places in the ledger. What the message says is made when it is sent, from what is so then.
    """

    class Kind(models.TextChoices):
        CHANNEL = "channel", "the card in a channel"
        PERSON = "person", "the card of an approver"
        REQUESTER = "requester", "what became of it, for who asked"
        LINE = "line", "an event, below a card"
        ENDING = "ending", "access ends soon"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request = models.UUIDField(db_index=True)
    kind = models.CharField(max_length=16, choices=Kind)
    place = models.CharField(max_length=32, help_text="A channel (C…), or a person (U…) to write to.")
    about = models.CharField(max_length=36, blank=True, help_text="Of a line: the entry. Of an ending: which end.")
    user = models.ForeignKey(User, null=True, on_delete=models.CASCADE, related_name="+")
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="+")
    channel = models.CharField(max_length=32, blank=True, help_text="Where Slack put it.")
    ts = models.CharField(max_length=32, blank=True, help_text="Slack's id of the message, within its channel.")
    wanted_seq = models.BigIntegerField()
    seen_seq = models.BigIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(null=True, help_text="Empty: it is as it should be.")
    unsure = models.BooleanField(default=False, help_text="It was posted, perhaps: looked for before it is again.")
    error = models.CharField(max_length=200, blank=True)
    dead = models.BooleanField(default=False, help_text="Slack refuses it for good; the next event tries once more.")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["request", "place", "kind", "about"], name="jit_one_slack_card_each"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="jit_slack_card_due"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.request} in {self.place}"


class SlackInbox(models.Model):
    """What came in from Slack: written down before it is acknowledged, done once; the payload sealed, then dropped."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=32)
    slack_user = models.CharField(max_length=32)
    payload = models.TextField(blank=True)
    received_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField()
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name_plural = "Slack inbox"
        indexes: ClassVar = [
            models.Index(fields=["due_at"], condition=Q(done_at=None), name="jit_slack_inbox_open"),
            models.Index(fields=["received_at"], name="jit_slack_inbox_age"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.slack_user}"
