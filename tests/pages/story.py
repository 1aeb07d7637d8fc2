"""What was asked for: a day that is over, what has ended, what waits; and a team in which everything is extreme."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jitaccess.audit.events import Event
from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.identity.models import Team
from jitaccess.identity.services import create_agent
from jitaccess.policy.models import Requestable, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import take_uses
from jitaccess.store.clock import now
from jitaccess.web.specimens import LONG, RTL, TEXT
from requests_app.models import Grant
from requests_app.services import (
    ExactCall,
    Privileges,
    approve_request,
    ask_for_changes,
    cancel_request,
    comment_on_request,
    extend_grant,
    release_grant,
    revoke_grant,
)
from requests_app.tasks import end_due_grants
from tests.cast import OPERATOR, definition, policy_document
from tests.clocks import Clock
from tests.pages.people import HOSTILE, World

HEBREW = "הסוכן צריך לכתוב את הערות השחרור 1.4 🚀 לפני הפרסום, ואז הגישה מסתיימת. 👩🏽‍💻"
WIDE_TOOL = "synchronise_" + "every_customer_record_of_the_northern_region_" * 2


def a_day(world: World, clock: Clock) -> None:
    """What is behind: most of it went well, some was refused, and all of it was used."""
    cast = world.cast
    story = (
        ("release-bot", "github/create_branch", "Branch off 1.3.2 for the hot fix.", 14),
        ("support-triage", "warehouse/write_table", "Note the answers to ticket 4411.", 9),
        ("billing-report", "warehouse/write_table", "Store the refunds of October for the report.", 31),
        ("release-bot", "github/merge_pull_request", "Merge the reviewed change for 1.3.2.", 6),
        ("demo-agent", "git/git_commit", "Commit the notes of the meeting.", 3),
        ("billing-report", "git/git_commit", "Commit the report of October.", 22),
        ("release-bot", "github/create_release", "Publish 1.3.2: the branch is merged and tagged.", 4),
    )
    for number, (agent, tool, reason, calls) in enumerate(story):
        asked = world.ask(f"past-{number}", agent, tool, reason=reason, seconds=3600)
        clock.shift(90 + 170 * number)
        cast.approve(asked, cast.bert if number % 3 and agent != "support-triage" else cast.anna)
        grant = Grant.objects.get(request=asked)
        for _ in range(3):
            world.called(agent, tool, calls // 3 + number % 4, grant=grant)
            clock.shift(1500)
        world.called(agent, "github/delete_branch", 2 + number, event=Event.CALL_DENIED)
        clock.shift(1200)
        end_due_grants()
    for number in range(3):
        asked = world.ask(
            f"refused-{number}", "support-triage", "warehouse/drop_table", reason=f"Clean up table tmp_{number}."
        )
        clock.shift(400)
        cast.deny(asked, cast.anna, reason="Tables are dropped by the data team.")
    world.called("support-triage", "warehouse/drop_table", 14, event=Event.CALL_DENIED)
    clock.at(datetime.now(UTC) - timedelta(hours=3, minutes=20))


def extremes(world: World) -> None:
    """A server, an agent, a person and a team with the longest names there can be, and what they ask for."""
    cast, wide = world.cast, world.people["wide"]
    team = Team.objects.create(name=("payments-platform-" * 5)[:80].strip("-"))
    team.members.set([wide, cast.carl])
    agent = create_agent(
        name="a-very-long-name-of-an-agent-of-40-chars", owner=cast.carl, team=team, operator=OPERATOR,
        description=HOSTILE, users=[wide],
    )  # fmt: skip
    world.agents["wide"] = agent
    slug = "north-european-payment-gateways"
    server = register_server(slug=slug, operator=OPERATOR, description=RTL, instructions=HOSTILE)
    server.owner_team = team
    server.save()
    tools = [WIDE_TOOL, "transfer", *(f"tool_{number:02}" for number in range(40))]
    import_tools(
        server=server, definitions=[definition(name, description=HOSTILE) for name in tools], operator=OPERATOR
    )
    for tool in Tool.objects.filter(server=server):
        classify_tool(tool=tool, access=AccessClass.WRITE, operator=OPERATOR)
    ServerAccess.objects.create(server=server).teams.add(team)
    policy = save_policy(document=policy_document("server-owners", name="of-extremes"), operator=OPERATOR)
    Requestable.objects.create(server=server, access="write", max_minutes=480, policy=policy)
    world.ask("hostile", "wide", f"{slug}/{WIDE_TOOL}", reason=HOSTILE, ticket="OPS-" + "9" * 90)
    world.ask(
        "rtl", "wide", f"{slug}/transfer", reason=f"{HEBREW}\n\n{RTL}", context={"שם": "👩🏽‍💻", "diff": "a\u200bb"}
    )
    world.ask("long", "wide", *(f"{slug}/{name}" for name in tools[2:]), reason=TEXT)
    arguments = {"to": LONG, "amount": 12_500.5, "note": "\u202eonce\n" + TEXT[:600], "deep": {"a": [1, {"b": "<b>"}]}}
    world.ask("exact", "wide", reason=LONG * 3, calls=[ExactCall(slug, "transfer", arguments)])
    world.known |= {"wide server": server, "wide team": team}


def ended(world: World, clock: Clock) -> None:
    cast, bot = world.cast, world.agents["release-bot"]
    used = world.grant("used up", "demo-agent", "git/git_reset", reason="Take back one commit.", max_uses=1)
    world.called("demo-agent", "git/git_reset", grant=used)
    take_uses({RoleBinding.objects.get(origin_id=used.pk).pk: 1})
    released = world.grant("released", "release-bot", "github/delete_branch", reason="Delete the branch of 1.2.")
    release_grant(grant_id=released.pk, principal=cast.principal(bot))
    revoked = world.grant("revoked", "billing-report", "warehouse/write_table", reason="Correct October.")
    world.called("billing-report", "warehouse/write_table", 4, grant=revoked)
    revoke_grant(grant_id=revoked.pk, user=cast.olga, note="The numbers were right after all.")
    denied = world.ask("denied", "support-triage", "github/delete_branch", reason="It looks unused.")
    cast.deny(denied, cast.anna, reason="It is the branch of the running release.")
    cancelled = world.ask("cancelled", "release-bot", "github/merge_pull_request", reason="Merge 812.")
    cancel_request(request_id=cancelled.pk, principal=cast.principal(bot))
    clock.shift(600)
    first = world.ask("superseded", "release-bot", "github/create_release", reason="Publish 1.4.")
    world.ask(
        "superseding", "release-bot", "github/create_release", reason="Publish 1.4, as a draft.", supersedes=first.pk
    )
    cast.deny(world.requests["superseding"], cast.bert, reason="Not before Monday.")
    live = world.grant(
        "live", "release-bot", "github/create_branch", "github/merge_pull_request", by=cast.bert,
        reason="Prepare the branch of 1.4 and merge what is reviewed.", seconds=4 * 3600, max_uses=20,
    )  # fmt: skip
    world.called("release-bot", "github/create_branch", 2, grant=live)
    comment_on_request(request_id=live.request_id, author=cast.olga, text="Please leave 809 out of it.", channel="web")
    world.known["grant"] = live
    world.grant(
        "scheduled", "billing-report", "warehouse/write_table", reason="The report of November.",
        starts_at=now() + timedelta(hours=9), seconds=3600,
    )  # fmt: skip
    world.grant("unused", "support-triage", "git/git_commit", reason="Commit what was answered.", seconds=4 * 3600)


def waiting(world: World, clock: Clock) -> None:
    cast, bot = world.cast, "release-bot"
    clock.at(datetime.now(UTC) - timedelta(minutes=35))  # they lapse after an hour, in which all pages must be seen
    extremes(world)
    changed = world.ask(
        "changes", "support-triage", "warehouse/write_table", reason="Note which tickets were answered."
    )
    ask_for_changes(
        request_id=changed.pk, approver=cast.anna, note="Only the schema of support, please.", channel="web"
    )
    clock.shift(600)
    two = world.ask(
        "two stages", "billing-report", "billing/refund_payment", user=cast.carl, ticket="FIN-2231",
        reason="The customer was charged twice for invoice 20417.", max_uses=1, seconds=900,
    )  # fmt: skip
    approve_request(request_id=two.pk, approver=cast.anna, channel="web", digest=two.digest, recently=True)
    call = {"invoice": "20455", "amount": 129.5, "currency": "EUR", "reason": "charged twice"}
    world.ask(
        "call", "billing-report", reason="Invoice 20455 was charged twice; the customer asked for it back.",
        calls=[ExactCall("billing", "refund_payment", call)],
    )  # fmt: skip
    clock.shift(450)
    world.ask(
        "database", "billing-report", reason="The price list of 1.4 is wrong in two rows.", seconds=900,
        privileges=[Privileges("warehouse", ["finance.prices", "public.notes"], ["select", "update"])],
    )  # fmt: skip
    world.ask("role", "billing-report", reason="I stand in for release-bot this week.", roles=["release-manager"])
    world.known["extension"] = extend_grant(
        grant_id=world.known["grant"].pk, principal=cast.principal(world.agents[bot]), seconds=3600,
        reason="Two of the pull requests are still in review.", snapshot=cast.snapshot(),
    )  # fmt: skip
    for agent in ("release-bot", "support-triage"):
        world.ask(f"alike-{agent}", agent, "warehouse/run_query", reason="Count what was sold in October.", seconds=600)
    clock.shift(400)
    world.ask(
        "waiting", bot, "github/create_release", "github/delete_branch",
        reason="The release notes of 1.4 are reviewed and the branch is green. Publish the release, and delete "
        "the branch behind it.",
        ticket="OPS-214", seconds=1800, max_uses=5, context={"milestone": "1.4", "pull_requests": [809, 812, 815]},
    )  # fmt: skip
