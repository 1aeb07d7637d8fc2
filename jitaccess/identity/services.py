"""Changes to who may act: agents, access tokens, one-time sign-in links."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from django.db.models import Q
from django.db.models.expressions import RawSQL

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import AccessToken, Agent, SignInLink, Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.proof import LINK, has_second_factor, way_in_of
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.ids import new_token, token_hash
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import is_slug, visible
from jitaccess.store import byhand
from jitaccess.store.clock import JitNow, now

MAX_TOKEN_SECONDS = 3600


def create_agent(
    *, name: str, owner: User, team: Team, operator: Actor, description: str = "", users: Iterable[User] = ()
) -> Agent:
    """A new agent, enabled, without any token. Raises Invalid for a bad name, Conflict when it is taken."""
    if not is_slug(name, limit=40):
        raise Invalid(
            "agent.name",
            f'"{visible(name, limit=80)}" is no name for an agent: use small letters, digits and hyphens, at most 40.',
        )
    with transaction.atomic():
        agent, made = Agent.objects.get_or_create(
            name=name, defaults={"owner": owner, "team": team, "description": description}
        )
        if not made:
            raise Conflict("agent.exists", f"There is an agent named {name!r} already.")
        allowed = list(users)
        agent.users.set(allowed)
        data: JsonObject = {
            "agent": name,
            "owner": owner.username,
            "team": team.name,
            "users": [user.username for user in allowed],
        }
        record(Facts(event=Event.AGENT_CREATED, actor=operator, data=data))
    return agent


def issue_token(
    *, agent: Agent, ttl: int, operator: Actor, user: User | None = None, client: str = ""
) -> tuple[str, AccessToken]:
    """A bearer token for `agent`, on behalf of `user` if given; `ttl` in seconds, at most an hour.

    Returns the token, which is shown this once, and its row. Raises Invalid or Forbidden.
    """
    if not 1 <= ttl <= MAX_TOKEN_SECONDS:
        raise Invalid("token.ttl", f"A token lives between 1 second and 60 minutes, not {ttl} seconds.", ttl=ttl)
    if not agent.enabled:
        raise Forbidden("agent.disabled", f"The agent {agent.name} is disabled; enable it before issuing a token.")
    if user and not (user.is_active and may_use(user=user, agent=agent)):
        raise Forbidden(
            "agent.not_usable",
            f"{user.username} may not use {agent.name}: add them to the agent's users, and see that they are active.",
        )
    value = new_token("jit")
    with transaction.atomic():
        moment = now()
        token = AccessToken.objects.create(
            agent=agent,
            user=user,
            hash=token_hash(value),
            client=visible(client, limit=200),
            issued_by_id=operator.user,
            issued_by_name=operator.user_name,
            created_at=moment,
            expires_at=moment + timedelta(seconds=ttl),
        )
        data = {"token": str(token.pk), "expires_at": token.expires_at.isoformat(), "for_agent": agent.name}
        record(
            Facts(event=Event.TOKEN_ISSUED, actor=operator, data=data | ({"for_user": user.username} if user else {}))
        )
    return value, token


def revoke_token(*, token: AccessToken, operator: Actor) -> None:
    """End a token now. Revoking twice is no error: the first time stands."""
    with transaction.atomic():
        if AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=JitNow()):
            record(
                Facts(
                    event=Event.TOKEN_REVOKED,
                    actor=operator,
                    data={"token": str(token.pk), "of_agent": token.agent.name},
                )
            )


def authenticate(value: str, *, source: str = "", client: str = "") -> Principal:
    """The principal of a bearer token. Raises Forbidden("token.invalid"): unknown, expired and revoked alike."""
    token = live_tokens().select_related("agent", "user").filter(hash=token_hash(value)).first()
    if token is None:
        raise Forbidden("token.invalid", "The access token is unknown, expired or revoked.")
    return Principal(
        agent=token.agent_id,
        agent_name=token.agent.name,
        user=token.user_id,
        user_name=token.user.username if token.user else "",
        client=token.client or client,
        source=source,
        token_hash=token.hash,
        token_expires_at=token.expires_at,
        issued_by=token.issued_by_id,
    )


def live_tokens() -> models.QuerySet[AccessToken]:
    """Tokens that are good now, by the database's clock. Those of an issuer who is gone are not."""
    live = AccessToken.objects.filter(Q(revoked_at=None) | Q(revoked_at__gt=JitNow()), expires_at__gt=JitNow())
    return live.filter(Q(issued_by=None) | Q(issued_by__is_active=True))


def ended_tokens(hashes: Sequence[str]) -> set[str]:
    """Those that are good no more. In one statement with one value, however many they are."""
    if not hashes:
        return set()
    vendor = connection.vendor
    listed = "SELECT unnest(%s::text[])" if vendor == "postgresql" else "SELECT value FROM json_each(%s)"
    value = list(hashes) if vendor == "postgresql" else json.dumps(list(hashes))
    live = live_tokens().filter(hash__in=RawSQL(listed, [value]))  # noqa: S611 - the statement is ours
    return set(hashes) - set(live.values_list("hash", flat=True).iterator(chunk_size=2000))


def ask_live(hashes: Collection[str]) -> byhand.Result:
    """The rows (hash,) of those that are live tokens', asked by hand: every batch of calls asks it."""
    if not byhand.on_sqlite():
        return byhand.execute(live_among("$1"), (byhand.array(tuple(hashes), quoted=True),))
    return byhand.execute(live_among("?"), (json.dumps(list(hashes)),))


@cache
def live_among(hashes: str) -> str:
    """The statement for it; `hashes` is the parameter that holds them, in the form of the database."""
    statement, parameters = live_tokens().order_by().values_list("hash").query.sql_with_params()
    assert not parameters
    among = f"= ANY({hashes}::text[])"
    if byhand.on_sqlite():
        among = f"IN (SELECT value FROM json_each({hashes}))"  # noqa: S608 - a placeholder
    # The clock once, not for every row.
    statement = statement.replace("jit_now()", "(SELECT jit_now())")
    return f'{statement} AND "{AccessToken._meta.db_table}"."hash" {among}'


def revoked_since(moment: datetime) -> set[str]:
    """The hashes of the tokens that were revoked from then on, and of those whose issuer is gone."""
    revoked = AccessToken.objects.filter(revoked_at__gte=moment, revoked_at__lte=JitNow())
    orphaned = AccessToken.objects.filter(issued_by__is_active=False, expires_at__gt=JitNow())
    return set(revoked.values_list("hash", flat=True)) | set(orphaned.values_list("hash", flat=True))


def may_use(*, user: User, agent: Agent) -> bool:
    """Whether `user` may let `agent` act on their behalf."""
    return user.pk == agent.owner_id or agent.users.filter(pk=user.pk).exists()


def agents_for(user: User) -> models.QuerySet[Agent]:
    """Enabled agents that `user` may let act on their behalf."""
    usable = Agent.users.through.objects.filter(user=user).values("agent_id")
    return Agent.objects.filter(Q(owner=user) | Q(pk__in=usable), enabled=True)


def set_agent_enabled(*, agent: Agent, enabled: bool, operator: Actor) -> None:
    """Disable (refused at once by the engine; the sweep ends its grants) or enable an agent."""
    with transaction.atomic():
        if Agent.objects.filter(pk=agent.pk, enabled=not enabled).update(enabled=enabled):
            event = Event.AGENT_ENABLED if enabled else Event.AGENT_DISABLED
            record(Facts(event=event, actor=operator, data={"agent": agent.name}))
    agent.enabled = enabled


def issue_sign_in_link(*, user: User, ttl: int, operator: Actor) -> str:
    """A one-time token that signs `user` in within `ttl` seconds; only its hash is kept."""
    value = new_token("in")
    with transaction.atomic():
        SignInLink.objects.create(user=user, hash=token_hash(value), expires_at=now() + timedelta(seconds=ttl))
        record(Facts(event=Event.SIGN_IN_LINK_ISSUED, actor=operator, data={"for_user": user.username}))
    return value


def link_owner(value: str) -> User:
    """Whom an unused link would sign in. Raises NotFound for unknown, used and expired ones alike."""
    link = _open_links(value).select_related("user").first()
    if link is None:
        raise NotFound(
            "sign_in_link.invalid", "This sign-in link was already used, or it has expired. Ask for a new one."
        )
    return link.user


def use_sign_in_link(value: str, *, source: str = "") -> User:
    """Consume a link and return its user: exactly one caller wins. Raises NotFound."""
    with transaction.atomic():
        user = link_owner(value)
        # On the row's own columns only: with a join PostgreSQL would not look at `used_at` again after waiting for the
        # winner of a race (READ COMMITTED re-checks the row, not the subquery), and both would get in.
        if SignInLink.objects.filter(hash=token_hash(value), used_at=None).update(used_at=JitNow()) != 1:
            raise NotFound("sign_in_link.invalid", "This sign-in link was just used.")
        actor = Principal.of_user(user, source=source).actor()
        # Who has a second factor is not signed in yet: that is put on record with it.
        event = Event.USER_PROVED if has_second_factor(user) else Event.USER_SIGNED_IN
        record(Facts(event=event, actor=actor, outcome=Outcome.ALLOWED, data={"with": LINK}))
    return user


def _open_links(value: str) -> models.QuerySet[SignInLink]:
    return SignInLink.objects.filter(
        hash=token_hash(value), used_at=None, expires_at__gt=JitNow(), user__is_active=True
    )


def make_admin(*, username: str, operator: Actor) -> User:
    """`username` as one who may do everything, active; made, without a password, if there is no such person.

    Raises Invalid for what cannot be a name.
    """
    draft = User(username=User.normalize_username(username), password=make_password(None))
    try:
        draft.clean_fields()
    except ValidationError as error:
        raise Invalid("user.name", f"{visible(username, limit=80)!r}: {' '.join(error.messages)}") from error
    with transaction.atomic():
        user, made = User.objects.get_or_create(username=draft.username, defaults={"password": draft.password})
        User.objects.filter(pk=user.pk).update(is_active=True, is_staff=True, is_superuser=True)
        record(Facts(event=Event.USER_MADE_ADMIN, actor=operator, data={"for_user": user.username, "new": made}))
    user.refresh_from_db()
    return user


def ensure_admin_left(*, without: Iterable[UUID]) -> None:
    """Refuse what would leave nobody who may do everything, or none of them who can sign in, if there is one who can.
    Raises Conflict. Call it inside the change's transaction.
    """
    admins = {admin.pk: admin for admin in _locked_admins()}
    gone = set(without) & admins.keys()
    if gone and gone == admins.keys():
        raise Conflict("user.last_admin", "This is the last active superuser; make somebody else one first.")
    able = way_in_of(admins.values()) if gone else set()
    if able and able <= gone:
        raise Conflict(
            "user.last_admin",
            "This is the last active superuser who can sign in: the others have no password, passkey or account at "
            "the provider. Give one of them a way in first.",
        )


def ensure_way_in(*, without_password_of: UUID) -> None:
    """Refuse to take away the password without which no superuser could sign in. Raises Conflict. As above."""
    admins = _locked_admins()
    if way_in_of(admins) and not way_in_of(admins, but_password_of=without_password_of):
        raise Conflict("user.last_way_in", "No active superuser could sign in any more. Give one another way in first.")


def _locked_admins() -> list[User]:
    """All of them: of two who remove each other at once, one has to wait and is then the last."""
    admins = User.objects.filter(is_active=True, is_staff=True, is_superuser=True)
    return list(admins.select_for_update(no_key=True).order_by("pk"))


def agent_by_name(name: str) -> Agent:
    """Raises NotFound with the names there are."""
    agent = Agent.objects.filter(name=name).select_related("owner", "team").first()
    if agent is None:
        names = ", ".join(Agent.objects.values_list("name", flat=True)[:20]) or "none yet"
        raise NotFound("agent.unknown", f"There is no agent named {name!r}. Agents here: {names}.")
    return agent


def user_by_name(username: str) -> User:
    """Raises NotFound."""
    user = User.objects.filter(username=username).first()
    if user is None:
        raise NotFound("user.unknown", f"There is no person named {username!r}.")
    return user


def people(ids: set[UUID]) -> dict[UUID, str]:
    """Names of active users by id."""
    return dict(User.objects.filter(pk__in=ids, is_active=True).values_list("pk", "username"))
