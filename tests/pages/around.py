"""Around the requests: emergencies, other programs, and what belongs to somebody's account."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.models import Group

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.issuer import provider_id
from jitaccess.identity.models import Team
from jitaccess.identity.services import issue_sign_in_link, issue_token
from jitaccess.kernel.text import visible
from jitaccess.notify.models import Delivery, Preference
from jitaccess.notify.slack.linking import issue_code
from jitaccess.notify.slack.models import SlackCard, SlackInbox, SlackLink
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.services import create_endpoint
from jitaccess.policy.delegations import delegate
from jitaccess.policy.locks import lock
from jitaccess.policy.models import BreakGlass, OnCallSchedule
from jitaccess.store.clock import now
from jitaccess.web.specimens import LONG
from requests_app.provisioning.rows import Provision, Target
from requests_app.services import (
    break_glass,
    finish_review,
)
from tests.cast import OPERATOR
from tests.pages.passkey import passkey
from tests.pages.people import HOSTILE, LONGEST, World


def emergencies(world: World) -> None:
    cast = world.cast
    watch = Team.objects.create(name="watch")
    watch.members.set([cast.anna, cast.admin])
    right = BreakGlass.objects.create(name="stop-a-release", role=world.known["role"], max_minutes=60, reviewers=watch)
    right.users.add(cast.olga)
    seen = break_glass(user=cast.olga, agent=cast.agent, right=right.pk, reason="The demo is down.", seconds=300)
    finish_review(grant_id=seen.pk, reviewer=cast.anna, note="As described; nothing else was touched.")
    grant = break_glass(
        user=cast.olga, agent=world.agents["release-bot"], right=right.pk, seconds=900,
        reason="1.3.2 breaks sign-in for everybody; it has to be taken back now.",
    )  # fmt: skip
    world.requests["break-glass"] = grant.request
    locked = lock(
        kind="agent", target=world.agents["demo-agent"].pk, reason="It asked for the same file 900 times.",
        operator=Actor(user=cast.admin.pk, user_name="admin"), expires_at=now() + timedelta(hours=5),
    )  # fmt: skip
    lock(
        kind="user", target=world.people["sso"].pk, reason=(LONG + " ") * 3,
        operator=Actor(user=cast.admin.pk, user_name=LONGEST[:150]),
    )  # fmt: skip
    away = delegate(
        person=cast.bert, to=cast.carl, ends_at=now() + timedelta(days=4), note="On holiday",
        operator=Actor(user=cast.bert.pk, user_name="bert"),
    )  # fmt: skip
    world.known |= {"right": right, "lock": locked, "delegation": away}


def programs(world: World) -> None:
    """What is told to other programs: webhooks with deliveries, Slack, a target that is provisioned."""
    cast = world.cast
    hook, _ = create_endpoint(
        name="siem", url="https://siem.example/jitaccess", events="*", team=None, owner=cast.admin, operator=OPERATOR
    )
    wide, _ = create_endpoint(
        name=("alarm-of-payments-" * 3)[:40].strip("-"), url="https://hooks.example/" + LONG + LONG,
        events="grant.revoked request.denied break_glass.used", team=cast.team, owner=cast.olga, operator=OPERATOR,
    )  # fmt: skip
    entries = list(Entry.objects.filter(event__startswith="request.")[:9])
    moment = now()
    failed = {
        "attempts": 6,
        "gave_up_at": moment,
        "status": 500,
        "error": "The answer was 500.",
        "answer": visible(HOSTILE, limit=1000, multiline=True),
    }
    states: Sequence[dict[str, Any]] = (
        {"attempts": 1, "delivered_at": moment, "status": 204}, failed, {"attempts": 2, "error": "No answer in 10 s."},
    )  # fmt: skip
    rows = [
        HookDelivery(
            endpoint=endpoint,
            entry=entry.uid,
            event=entry.event,
            created_at=moment,
            due_at=moment,
            **states[number % 3],
        )
        for endpoint in (hook, wide)
        for number, entry in enumerate(entries)
    ]
    HookDelivery.objects.bulk_create(rows)
    Endpoint.objects.filter(pk=wide.pk).update(
        enabled=False, disabled_why="Nothing got through for 5 days.", failing_since=moment - timedelta(days=5)
    )
    world.known |= {"hook": hook, "hook off": wide, "hook delivery": rows[1]}
    SlackLink.objects.create(user=cast.anna, team="T1", slack_user="U1ANNA", slack_name="Anna", linked_at=moment)
    SlackCard.objects.create(
        request=world.requests["waiting"].pk, kind="channel", place="C1", wanted_seq=3, dead=True,
        error="channel_not_found", due_at=moment,
    )  # fmt: skip
    issue_code(team="T1", team_name="Northwind", slack_user="U8", slack_name="bert")
    SlackInbox.objects.create(key="k", kind="block_actions", slack_user="U1", received_at=moment, due_at=moment)
    target = Target.objects.create(
        slug="warehouse-rights", url="https://rights.example/", match="database:warehouse", failures=3,
        last_error="No answer in 10 s.", description="Rights in the warehouse",
    )  # fmt: skip
    Provision.objects.create(
        target=target, agent=cast.agent, subject_key="agent:demo-agent", entitlement="database:warehouse/" + LONG,
        digest="sha256:0", changed_at=moment, last_error="No answer in 10 s.", attempts=3,
    )  # fmt: skip
    world.known["target"] = target


def rest(world: World) -> None:
    cast = world.cast
    Preference.objects.create(team=cast.team, group="outcomes", channel="email", on=False)
    OnCallSchedule.objects.create(name="release-duty", starts_at=now(), rota=json.dumps(["anna", "bert"]))
    Group.objects.create(name="auditors")
    for client in ("claude-code 2.1", "cursor"):
        _, world.known["token"] = issue_token(
            agent=world.agents["release-bot"], ttl=3600, operator=OPERATOR, client=client
        )
    world.known["link"] = issue_sign_in_link(user=cast.anna, ttl=3600, operator=OPERATOR)
    world.known["entry"] = Entry.objects.filter(event="call.authorized").latest("uid")
    asked = world.requests["waiting"]
    Delivery.objects.create(
        entry=uuid4(), event="request.submitted", request=asked.pk, user=cast.anna, channel="email", due_at=now(),
        attempts=2, error="Connection refused",
    )  # fmt: skip
    sealed = get_adapter().encrypt
    Authenticator.objects.create(user=cast.bert, type="totp", data={"secret": sealed("A" * 32)})
    Authenticator.objects.create(user=cast.bert, type="recovery_codes", data={"seed": sealed("0" * 40), "used_mask": 0})
    Authenticator.objects.create(
        user=cast.olga, type="webauthn", data={"name": "Laptop " + LONG, "credential": passkey()}
    )
    SocialAccount.objects.create(user=world.people["sso"], provider=provider_id(), uid="s-4711")
