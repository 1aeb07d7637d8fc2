"""Reading reviews of break-glass: what is open, for whom, and who may look at it."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q, QuerySet

from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.models import ApprovalPolicy, Role
from jitaccess.policy.people import members_of, resolver
from jitaccess.policy.policies import document_of
from requests_app.models import AccessRequest
from requests_app.models import Review as Review  # noqa: PLC0414 - as in selectors: for interfaces that read


def reviews_for(user: User) -> QuerySet[Review]:
    """Open ones that this person can finish, oldest first."""
    rows = Review.objects.select_related("grant__request", "grant__agent", "grant__user")
    mine = rows.filter(done_at=None, team__in=user.teams.values("pk")).exclude(grant__user=user)
    return mine.order_by("pk") if user.is_active else mine.none()


def reviews_of(user: User) -> QuerySet[Review]:
    """Uses of break-glass rights by this person, latest first."""
    return Review.objects.select_related("grant__agent", "grant__user").filter(grant__user=user)


def review_of(request: AccessRequest) -> Review | None:
    """The review of a request by break-glass, open or done."""
    return Review.objects.select_related("grant", "done_by").filter(grant__request=request).first()


def is_reviewer(review: Review, user: User) -> bool:
    """In the reviewers' team now; when that team is gone a superuser can finish it, or nobody ever could."""
    if not user.is_active or review.grant.user_id == user.pk:
        return False
    if user.teams.filter(pk=review.team).exists():
        return True
    return user.is_superuser and not Team.objects.filter(pk=review.team).exists()


def may_see(review: Review, user: User) -> bool:
    """Its reviewers, who used the right, the owner of the agent, and superusers."""
    concerned = {review.grant.user_id, review.grant.agent.owner_id}
    return user.is_active and (user.pk in concerned or user.is_superuser or is_reviewer(review, user))


def told_of(request: AccessRequest) -> list[User]:
    """Everybody who was skipped: the reviewers, the owner of the agent, and who decides when the role is asked for."""
    review = review_of(request)
    team = Q(teams=review.team) if review else Q(pk=None)
    ids = {request.agent.owner_id}.union(*(_deciders(request, item["role_id"]) for item in request.parsed_items))
    return list(User.objects.filter(team | Q(pk__in=ids), is_active=True).distinct().order_by("username"))


def _deciders(request: AccessRequest, role_id: str) -> frozenset[UUID]:
    """Whom any rule of the role's approval policy asks first; nobody when the role cannot be asked for."""
    role = Role.objects.filter(pk=role_id).first()
    try:
        asked = parse_role(role.document).facts.request if role else None
        policy = ApprovalPolicy.objects.filter(name=asked.approval, head__gte=1).first() if asked else None
        rules = document_of(policy).rules if policy else ()
    except JitAccessError:  # a document of another release: the reviewers and the owner are told all the same
        rules = ()
    refs: set[str] = set()
    for rule in rules:
        resolve = resolver(rule, servers=(), roles=[UUID(role_id)], owner=request.agent.owner_id)
        refs.update(
            ref for stage in rule.stages[:1] for group in stage.groups for one in group.people for ref in resolve(one)
        )
    return frozenset[UUID]().union(*members_of(refs).values())
