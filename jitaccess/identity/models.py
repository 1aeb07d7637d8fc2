from __future__ import annotations

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.crypto import salted_hmac

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.labels import parse_labels

slug_validator = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
    "Use small letters, digits and hyphens (at most 40), starting and ending with a letter or digit.",
)


def labels_validator(text: str) -> None:
    """A form's complaint about labels that cannot be read."""
    try:
        parse_labels(text)
    except Invalid as error:
        raise ValidationError(error.detail, code=error.code) from error


class User(AbstractUser):
    """A person. Agents are not users and can never sign in."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    manager = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="reports",
        help_text="Whom approval policies mean by `manager`, for what this person's agents ask for.",
    )
    # How often all of their sessions were ended; null: never.
    sessions_ended = models.IntegerField(null=True, editable=False)

    class Meta(AbstractUser.Meta):
        constraints: ClassVar = [
            models.CheckConstraint(condition=~Q(username=""), name="jit_user_has_a_name"),
            models.CheckConstraint(
                condition=Q(manager=None) | ~Q(manager=models.F("id")), name="jit_nobody_is_their_own_manager"
            ),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    def clean(self) -> None:
        """Forms leave the constraint out: the key is none of their fields."""
        super().clean()
        if self.manager_id == self.pk:
            raise ValidationError({"manager": "Nobody is their own manager."})

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """Django's, of which every session has a copy that must match: so one number ends them all, known or not."""
        if self.sessions_ended is None:
            return str(super()._get_session_auth_hash(secret))  # type: ignore[misc]  # the stubs leave it out
        text = f"{self.sessions_ended} {self.password}"
        return salted_hmac("jitaccess.sessions", text, secret=secret, algorithm="sha256").hexdigest()


class Team(models.Model):
    """People who own agents and servers together, and scope who sees and approves what."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    members = models.ManyToManyField(User, blank=True, related_name="teams")

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class Agent(models.Model):
    """A non-human identity with an owner and a team."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    description = models.CharField(max_length=300, blank=True)
    owner = models.ForeignKey(User, on_delete=models.PROTECT, related_name="owned_agents")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="agents")
    users = models.ManyToManyField(
        User,
        blank=True,
        related_name="usable_agents",
        help_text="Who may let this agent act on their behalf, besides the owner.",
    )
    enabled = models.BooleanField(
        default=True, help_text="A disabled agent is refused at its next call, and its grants end."
    )
    labels = models.TextField(
        default="{}",
        db_default="{}",
        blank=True,
        validators=[labels_validator],
        help_text='JSON, for the conditions of roles and approval policies: {"tier": "trusted"}',
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class AccessToken(models.Model):
    """A bearer token of an agent, or of an agent on behalf of a user. Only its hash is kept; it is shown once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="tokens")
    user = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="On whose behalf"
    )
    hash = models.CharField(max_length=64, unique=True, editable=False)
    client = models.CharField(max_length=200, blank=True)
    issued_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    issued_by_name = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=models.F("created_at")), name="jit_token_ends_after_start"
            ),
        ]
        indexes: ClassVar = [
            # Asked each second by whoever holds open streams of many tokens.
            models.Index(fields=["revoked_at"], condition=Q(revoked_at__isnull=False), name="jit_token_revoked"),
        ]

    def __str__(self) -> str:
        return f"token of {self.agent} until {self.expires_at:%H:%M} UTC"


class SignInLink(models.Model):
    """A link that signs one person in once. Only its hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    hash = models.CharField(max_length=64, unique=True, editable=False)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"sign-in link of {self.user}"
