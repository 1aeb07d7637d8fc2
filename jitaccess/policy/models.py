from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, Team, User, slug_validator
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.text import visible
from jitaccess.policy.approver_models import ApprovalPolicy as ApprovalPolicy  # noqa: PLC0414 - Django looks here
from jitaccess.policy.approver_models import ApprovalPolicyVersion as ApprovalPolicyVersion  # noqa: PLC0414
from jitaccess.policy.approver_models import BreakGlass as BreakGlass  # noqa: PLC0414
from jitaccess.policy.approver_models import Delegation as Delegation  # noqa: PLC0414
from jitaccess.policy.approver_models import OnCallSchedule as OnCallSchedule  # noqa: PLC0414


class PolicyVersion(models.Model):
    """One row. Triggers on every table the compiler reads raise `version`; every decision checks it.

    `stamp` is new with each version: after a restored backup or a failover that lost the last commits the same
    number may mean something else.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    version = models.BigIntegerField(default=1)
    stamp = models.CharField(max_length=36, default="")

    def __str__(self) -> str:
        return f"policy version {self.version}"


class PolicyChange(models.Model):
    """What a version changed, written by the same triggers: `kind` of thing, and the id of the one to read anew.

    The newest ten thousand versions are kept. Whoever is further behind reads everything.
    """

    version = models.BigIntegerField()
    stamp = models.CharField(max_length=36)
    kind = models.CharField(max_length=12)
    key = models.CharField(max_length=36)

    class Meta:
        # The triggers ask for each row whether it is written down already.
        indexes: ClassVar = [models.Index(fields=["version", "kind", "key"], name="jit_policy_change")]

    def __str__(self) -> str:
        return f"{self.version}: {self.kind} {self.key}"


class Role(models.Model):
    """A named, versioned set of rules. `head` is the version in force for default and standing bindings."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    document = models.TextField(help_text="YAML: kind, version, metadata, spec with allow and deny rules.")
    head = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return f"{self.name}@{self.head}"


class RoleVersion(models.Model):
    """What a role said at one version, kept for ever."""

    role = models.ForeignKey(Role, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    document = models.TextField()
    saved_by = models.CharField(max_length=150)
    saved_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-version"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["role", "version"], name="jit_role_version_once")]

    def __str__(self) -> str:
        return f"{self.role.name}@{self.version}"


# Origins of bindings that a request or a break-glass right brought about, for a while.
GRANTED = ("grant", "break_glass")


class RoleBinding(models.Model):
    """A right: whose, which (a role; for grants the approved tools with their pins), from when to when, and why.

    A ceiling is the opposite: whatever else its subject has, nothing beyond this role is allowed.
    """

    class Origin(models.TextChoices):
        DEFAULT = "default", "default"
        STANDING = "standing", "standing"
        GRANT = "grant", "grant"
        BREAK_GLASS = "break_glass", "break-glass"
        CEILING = "ceiling", "ceiling"

    class Everyone(models.TextChoices):
        AGENTS = "agents", "every agent"
        USERS = "users", "every user"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    everyone = models.CharField(max_length=6, choices=Everyone.choices, blank=True)
    agent = models.ForeignKey(Agent, null=True, blank=True, on_delete=models.CASCADE, related_name="bindings")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="bindings")
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.CASCADE, related_name="bindings")
    role = models.ForeignKey(Role, null=True, blank=True, on_delete=models.PROTECT, related_name="bindings")
    role_version = models.PositiveIntegerField(
        null=True, editable=False, help_text="Grants of a role: the approved version; its head limits it further."
    )
    tools = models.TextField(default="{}", editable=False, help_text="Grants: tool id to approved pin, as JSON.")
    arguments = models.TextField(
        default="", db_default="", editable=False, help_text="Grants: which arguments are allowed, as JSON; empty: any."
    )
    privileges = models.TextField(
        default="", db_default="", editable=False, help_text="Grants: privileges on a database, as JSON."
    )
    origin = models.CharField(max_length=11, choices=Origin.choices)
    origin_id = models.UUIDField(null=True, editable=False)
    starts_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    max_uses = models.PositiveIntegerField(null=True, editable=False, help_text="Calls it allows; empty: any number.")

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                # An agent, a user, a team, everybody of a kind, or (for grants) an agent on behalf of a user.
                condition=Q(everyone="", team=None, agent__isnull=False, user=None)
                | Q(everyone="", team=None, agent__isnull=False, origin__in=GRANTED)
                | Q(everyone="", team=None, agent=None, user__isnull=False)
                | Q(everyone="", agent=None, user=None, team__isnull=False)
                | (~Q(everyone="") & Q(agent=None, user=None, team=None)),
                name="jit_binding_has_one_subject",
            ),
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("starts_at")), name="jit_binding_ends_after_start"
            ),
            models.CheckConstraint(
                condition=~Q(origin__in=GRANTED)
                | Q(expires_at__isnull=False, origin_id__isnull=False, agent__isnull=False),
                name="jit_granted_binding_expires",
            ),
            models.CheckConstraint(
                # A grant of a role pins its version; nothing else does, and nothing is both a role and tools.
                condition=Q(role=None, role_version=None, origin__in=GRANTED)
                | Q(role__isnull=False, role_version__isnull=False, tools="{}", origin__in=GRANTED)
                | (~Q(origin__in=GRANTED) & Q(role__isnull=False, role_version=None, tools="{}", arguments="")),
                name="jit_binding_holds_a_role_or_tools",
            ),
            models.CheckConstraint(
                condition=Q(max_uses=None) | Q(origin="grant", max_uses__gte=1), name="jit_only_grants_count_uses"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["origin_id"], name="jit_binding_origin"),
            models.Index(fields=["expires_at"], name="jit_binding_ends"),
        ]

    def __str__(self) -> str:
        return f"{self.subject}: {self.role.name if self.role else 'grant'}"

    @property
    def subject(self) -> str:
        if self.everyone:
            return f"every {self.everyone.removesuffix('s')}"
        names = [str(part) for part in (self.agent, self.user) if part]
        return " for ".join(names) if names else f"team {self.team}"


class BindingUse(models.Model):
    """How many calls a binding with `max_uses` still allows. Counting never raises the policy version."""

    binding = models.OneToOneField(RoleBinding, on_delete=models.CASCADE, primary_key=True, related_name="use")
    left = models.PositiveIntegerField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=Q(left__gte=0), name="jit_uses_never_below_zero")]

    def __str__(self) -> str:
        return f"{self.left} of {self.binding.max_uses} left"


class DefaultRole(RoleBinding):
    """The roles that every agent or every user has, as an admin page of their own."""

    class Meta:
        proxy = True


class ServerAccess(models.Model):
    """Which teams may use a server at all. Without a row nobody can."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.OneToOneField(Server, on_delete=models.CASCADE, related_name="access")
    every_team = models.BooleanField(default=False)
    teams = models.ManyToManyField(Team, blank=True, related_name="+")

    class Meta:
        verbose_name_plural = "server access"

    def __str__(self) -> str:
        return f"who may use {self.server}"


class Lock(models.Model):
    """An emergency stop, at once and whatever anybody has, until it is lifted or its time is up."""

    class Kind(models.TextChoices):
        AGENT = "agent", "agent"
        USER = "user", "user"
        SERVER = "server", "server"
        ROLE = "role", "role"
        GRANT = "grant", "grant"
        EVERYTHING = "everything", "everything"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    target = models.UUIDField(null=True, blank=True)
    target_name = models.CharField(max_length=80, blank=True, help_text="As it was called when it was locked.")
    reason = models.CharField(max_length=500)
    created_at = models.DateTimeField()
    created_by_name = models.CharField(max_length=150)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: until somebody lifts it.")
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by_name = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(kind="everything", target=None) | (~Q(kind="everything") & Q(target__isnull=False)),
                name="jit_lock_has_a_target",
            ),
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("created_at")), name="jit_lock_ends_after_start"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}".strip()


class Requestable(models.Model):
    """What agents of a team may ask for, for how long at most, and who decides: tools of a server, or privileges on a
    database. (Roles say it themselves, by `spec.request`.)
    """

    class Arguments(models.TextChoices):
        ANY = "any", "tools with any arguments"
        SCHEMA = "schema", "tools with arguments of a schema, or exact calls"
        EXACT = "exact", "exact calls only"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.ForeignKey(Server, null=True, blank=True, on_delete=models.CASCADE, related_name="requestables")
    team = models.ForeignKey(
        Team, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="Empty: every team."
    )
    tools = models.CharField(max_length=500, blank=True, help_text="Name patterns, comma-separated: git_commit, git_*.")
    access = models.CharField(
        max_length=60, blank=True, help_text="Access classes, comma-separated: write, destructive."
    )
    database = models.CharField(max_length=40, blank=True, default="", db_default="", help_text="Instead of a server.")
    database_objects = models.CharField(
        "objects", max_length=500, blank=True, default="", db_default="", help_text="Patterns: public.products, shop.*"
    )
    privileges = models.CharField(
        max_length=120, blank=True, default="", db_default="", help_text="Comma-separated: select, update."
    )
    arguments = models.CharField(
        max_length=6, choices=Arguments.choices, default=Arguments.ANY, db_default=Arguments.ANY
    )
    max_minutes = models.PositiveIntegerField(
        default=240, validators=[MinValueValidator(1), MaxValueValidator(30 * 24 * 60)]
    )
    max_total_minutes = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(90 * 24 * 60)],
        help_text="How long a grant may last with all its extensions. Empty: it cannot be extended beyond max minutes.",
    )
    max_advance_minutes = models.PositiveIntegerField(
        default=7 * 24 * 60,
        db_default=7 * 24 * 60,
        validators=[MaxValueValidator(90 * 24 * 60)],
        help_text="How far ahead the start may be. 0: at once only.",
    )
    max_uses = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="A grant is good for so many calls. Empty: any number while it lasts.",
    )
    policy = models.ForeignKey(ApprovalPolicy, on_delete=models.PROTECT, related_name="requestables")

    class Meta:
        ordering: ClassVar = ["server", "database", "id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(max_minutes__gte=1), name="jit_requestable_has_a_duration"),
            models.CheckConstraint(
                condition=Q(server__isnull=False, database="", database_objects="", privileges="")
                & (~Q(tools="") | ~Q(access=""))
                | (Q(server=None, tools="", access="") & ~Q(database="") & ~Q(database_objects="") & ~Q(privileges="")),
                name="jit_requestable_names_something",
            ),
            models.CheckConstraint(condition=Q(max_uses=None) | Q(max_uses__gte=1), name="jit_requestable_has_uses"),
            models.CheckConstraint(
                condition=Q(max_total_minutes=None) | Q(max_total_minutes__gte=F("max_minutes")),
                name="jit_requestable_total_not_below_max",
            ),
        ]

    def __str__(self) -> str:
        what = " or ".join(part for part in (self.tools, self.access, self.database_objects) if part)
        return visible(f"{self.server or self.database}: {what}", limit=300)
