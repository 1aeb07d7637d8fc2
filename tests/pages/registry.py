"""Every page there is: a row for each address that a browser can GET, and why others have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib import admin
from django.contrib.auth import SESSION_KEY
from django.core import mail
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.views import defaults

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.proof import note_step
from jitaccess.kernel.ids import uuid7
from jitaccess.notify import email
from jitaccess.notify.models import Delivery
from jitaccess.notify.notice import GRANT_EXPIRING, TOLD_EVENTS, notice_of, quarantine_notice, webhook_notice
from jitaccess.notify.slack.linking import issue_code
from jitaccess.store.clock import now
from requests_app.anomalies import RULES
from tests.pages.people import World

# Nobody looks at these: programs do, or a page that is open already.
NO_PAGES = {
    "api": "JSON for programs; its documentation, api:docs, is a page and has a row",
    "authzen": "JSON for programs",
}
NO_PAGE = {
    "authzen_configuration": "JSON for programs",
    "web:inbox_part": "a part of web:inbox, fetched into it",
    "web:request_part": "a part of web:request, fetched into it",
    "web:activity_export": "a download",
    "/favicon.ico": "a redirect to a picture",
    "/robots.txt": "a text for programs",
    "slack:slack_interactive": "called by Slack",
    "slack:slack_commands": "called by Slack",
    "oidc_link": "a form, behind the page of account_reauthenticate",
    "oidc_callback": "a redirect, or what identity/oidc tests show of it",
    "account_set_password": "nothing is there: 404",
    "mfa_login_webauthn": "JSON for the sign-in page",
    "mfa_list_webauthn": "the address of mfa_index",
    "admin:jsi18n": "a script",
    "admin:autocomplete": "JSON for forms",
    "admin:view_on_site": "a redirect",
    "admin:password_change": "leads to the page of the desk",
    "admin:password_change_done": "nothing leads there",
    "admin:login": "leads to the page of the desk",
    "admin:logout": "POST only; account_logout is the page",
}
# Addresses that only take what a form sends: asked for with GET they say 405.
FORMS = {
    "sessions_end", "oidc_login", "oidc_unlink",
    "slack:slack_unlink", "slack:slack_retry",
    "notify:webhook_switch", "notify:webhook_remove", "notify:webhook_rotate", "notify:webhook_replay",
    "notify:webhook_test",
    "web:approve", "web:deny", "web:changes", "web:comment", "web:revoke", "web:new_dry_run", "web:file", "web:cancel",
    "web:release", "web:extend", "web:lock_agent", "web:lock_grant", "web:classify", "web:lock", "web:unlock",
    "web:explain_anomaly", "web:use_break_glass", "web:review", "web:stop_break_glass", "web:hand_over",
    "web:end_delegation",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A page as `who` sees it. `url` is the name of its address. `made` answers instead of a view; `prepare` is done in
    a fresh browser first.
    """

    name: str
    url: str = ""
    path: str = "/"
    who: str = ""
    status: int = 200
    prepare: Callable[[Client], None] | None = None
    made: Callable[[], HttpResponse] | None = None


def rows_of(room: str, world: World) -> list[Row]:
    """The rows of one of ROOMS."""
    assert get_resolver().url_patterns  # with the addresses come the pages of the admin
    return list(ROOMS[room](world))


def addresses() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each address (where it has none, its path), and what is filled into it."""
    yield from _addresses(get_resolver(), "/", "")


def _addresses(resolver: URLResolver, path: str, space: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in resolver.url_patterns:
        here = path + str(one.pattern)
        if isinstance(one, URLResolver):
            yield from _addresses(one, here, f"{one.namespace}:" if one.namespace else space)
        elif isinstance(one, URLPattern):
            yield (f"{space}{one.name}" if one.name else here), dict(one.pattern.converters)


def _row(name: str, url: str, who: str = "anna", query: str = "", /, *, status: int = 200, **arguments: Any) -> Row:
    return Row(name=name, url=url, path=reverse(url, kwargs=arguments) + query, who=who, status=status)


def _desk(world: World) -> Iterator[Row]:
    yield _row("inbox", "web:inbox")
    yield _row("inbox-extreme", "web:inbox", "wide")
    yield _row("inbox-empty", "web:inbox", "nora")
    yield _row("inbox-admin", "web:inbox", "admin")
    yield _row("bulk", "web:bulk", "anna", f"?like={world.requests['alike-release-bot'].pk}")
    yield _row("requests", "web:requests")
    yield _row("requests-filtered", "web:requests", "anna", "?state=denied")
    yield _row("requests-nothing-fits", "web:requests", "anna", "?agent=nobody")
    yield _row("requests-extreme", "web:requests", "wide")
    yield _row("requests-empty", "web:requests", "nora")
    yield _row("new", "web:new", "olga")
    yield _row("new-search", "web:new", "olga", "?agent=release-bot&q=branch")
    yield _row("new-extreme", "web:new", "wide")
    yield _row("new-empty", "web:new", "nora")
    yield _row("mine", "web:mine", "olga")
    yield _row("mine-extreme", "web:mine", "wide")
    yield _row("mine-empty", "web:mine", "nora")


def _seen(world: World) -> Iterator[Row]:
    yield _row("overview", "web:overview")
    yield _row("overview-week", "web:overview", "anna", "?span=week")
    yield _row("overview-own", "web:overview", "olga")
    yield _row("overview-empty", "web:overview", "nora")
    yield _row("anomalies", "web:anomalies")
    yield from (_row(f"anomaly-{rule.slug}", "web:anomaly", rule=rule.slug) for rule in RULES)
    yield _row("activity", "web:activity")
    yield _row("activity-filtered", "web:activity", "anna", "?what=refused&agent=support-triage")
    yield _row("activity-of-a-request", "web:activity", "anna", f"?request={world.requests['live'].pk}")
    yield _row("activity-nothing-fits", "web:activity", "anna", "?agent=nobody")
    yield _row("activity-extreme", "web:activity", "wide")
    yield _row("activity-empty", "web:activity", "nora")
    yield _row("entry", "web:activity_entry", uid=world.known["entry"].uid)
    yield _row("entry-extreme", "web:activity_entry", uid=_entry_of(world, "hostile"))


def _entry_of(world: World, name: str) -> Any:
    return Entry.objects.filter(request=world.requests[name].pk).earliest("uid").uid


def _requests(world: World) -> Iterator[Row]:
    extreme = {"hostile", "rtl", "long", "exact"}
    for name, request in world.requests.items():
        if name.startswith(("past-", "refused-", "alike-")):
            continue
        who = "wide" if name in extreme else "anna"
        yield _row(f"request-{name.replace(' ', '-')}", "web:request", who, request_id=request.pk)
    waiting, live = world.requests["waiting"].pk, world.requests["live"].pk
    yield _row("request-waiting-owner", "web:request", "olga", request_id=waiting)
    yield _row("request-live-owner", "web:request", "olga", request_id=live)
    yield _row("request-live-admin", "web:request", "admin", request_id=live)
    yield _row("request-two-stages-next", "web:request", "carl", request_id=world.requests["two stages"].pk)
    yield _row("request-of-others", "web:request", "nora", status=404, request_id=waiting)


def _things(world: World) -> Iterator[Row]:
    known = world.known
    yield _row("agents", "web:agents", "olga")
    yield _row("agents-admin", "web:agents", "admin")
    yield _row("agents-empty", "web:agents", "nora")
    yield _row("agent", "web:agent", "olga", name="release-bot")
    yield _row("agent-locked", "web:agent", "olga", name="demo-agent")
    yield _row("agent-user", "web:agent", "carl", name="release-bot")
    yield _row("agent-extreme", "web:agent", "wide", name=world.agents["wide"].name)
    yield _row("agent-cursor", "web:agent", "olga", "?client=cursor", name="release-bot")
    yield _row("grants", "web:grants")
    yield _row("grants-ended", "web:grants", "anna", "?state=ended")
    yield _row("grants-owner", "web:grants", "olga")
    yield _row("grants-empty", "web:grants", "nora")
    yield _row("servers", "web:servers", "admin")
    yield _row("servers-member", "web:servers", "olga")
    yield _row("servers-extreme", "web:servers", "wide")
    yield _row("servers-empty", "web:servers", "nora")
    yield _row("server-queue", "web:server", "admin", slug="github")
    yield _row("server-tools", "web:server", "admin", "?tab=tools", slug="github")
    yield _row("server-away", "web:server", "admin", slug="billing")
    yield _row("server-member", "web:server", "olga", slug="github")
    yield _row("server-extreme", "web:server", "admin", slug=known["wide server"].slug)
    yield _row("simulator", "web:simulator", "admin")
    yield _row("simulator-answer", "web:simulator", "admin", "?agent=release-bot&server=github&tool=create_release")
    yield _row("simulator-member", "web:simulator", "olga")
    yield _row("simulator-empty", "web:simulator", "nora")
    yield _row("locks", "web:locks", "admin")
    yield _row("locks-owner", "web:locks", "olga")
    yield _row("locks-empty", "web:locks", "nora")
    yield from (_row(f"break-glass-{who}", "web:break_glass", who) for who in ("olga", "anna", "nora"))
    yield from (_row(f"away-{who}", "web:away", who) for who in ("anna", "bert", "carl"))


def _told(world: World) -> Iterator[Row]:
    known = world.known
    yield _row("design", "web:design", "admin")
    yield from (_row(f"preferences-{who}", "notify:preferences", who) for who in ("anna", "nora"))
    yield _row("preferences-team", "notify:team_preferences", "admin", team_id=world.cast.team.pk)
    yield _row("webhooks", "notify:webhooks", "admin")
    yield _row("webhooks-empty", "notify:webhooks", "nora")
    yield _row("webhook-new", "notify:webhook_new", "admin")
    for hook, name in ((known["hook"], "webhook"), (known["hook off"], "webhook-off")):
        yield _row(name, "notify:webhook", "admin", endpoint_id=hook.pk)
    yield _row("webhook-change", "notify:webhook_change", "admin", endpoint_id=hook.pk)
    delivery = known["hook delivery"]
    yield _row("deliveries", "notify:webhook_deliveries", "admin", endpoint_id=delivery.endpoint_id)
    yield _row(
        "delivery", "notify:webhook_delivery", "admin", endpoint_id=delivery.endpoint_id, delivery_id=delivery.pk
    )
    yield _row("slack", "slack:slack_install", "admin")
    yield _row("slack-linked", "slack:slack_install", "anna")
    code = issue_code(team="T1", team_name="Northwind", slack_user="U9", slack_name="carl")  # good for ten minutes only
    yield Row(name="slack-link", url="slack:slack_link", path=code.removeprefix("http://localhost"), who="carl")
    yield _row("api-docs", "api:docs", "anna")


def _account(world: World) -> Iterator[Row]:
    yield _row("sign-in", "account_login", "")
    yield _row("sign-in-by-link", "web:sign_in", "", token=world.known["link"])
    yield _row("sign-in-by-used-link", "web:sign_in", "", status=404, token="made-up")
    yield _row("sign-out", "account_logout")
    yield _row("inactive", "account_inactive", "")
    yield _row("password", "account_change_password")
    yield _row("security", "mfa_index")
    yield _row("security-with-app", "mfa_index", "bert")
    yield _row("prove", "account_reauthenticate")
    yield _row("prove-by-code", "mfa_reauthenticate", "bert")
    yield _row("prove-by-passkey", "mfa_reauthenticate_webauthn", "olga")
    yield _row("prove-by-provider", "oidc_reauthenticate", "sso")
    yield Row(name="two-factor", url="mfa_authenticate", path=reverse("mfa_authenticate"), prepare=_password_given)
    fresh = {
        "app-add": ("mfa_activate_totp", "anna"), "app-remove": ("mfa_deactivate_totp", "bert"),
        "passkey-add": ("mfa_add_webauthn", "anna"), "recovery-codes": ("mfa_view_recovery_codes", "bert"),
        "recovery-codes-new": ("mfa_generate_recovery_codes", "bert"),
    }  # fmt: skip
    for name, (url, who) in fresh.items():
        yield Row(name=name, url=url, path=reverse(url), prepare=_proved(world.people[who]))
    passkey = Authenticator.objects.get(user=world.people["olga"], type="webauthn")
    url = "mfa_remove_webauthn"
    yield Row(name="passkey-remove", url=url, path=reverse(url, args=[passkey.pk]), prepare=_proved(passkey.user))


def _password_given(client: Client) -> None:
    client.post(reverse("account_login"), {"login": "bert", "password": "correct horse battery"})
    assert SESSION_KEY not in client.session


def _proved(user: User) -> Callable[[Client], None]:
    def prepare(client: Client) -> None:
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        asked = _as(user)
        asked.session = client.session
        for method, more in (("password", {}), ("mfa", {"type": "totp"}), ("mfa", {"type": "webauthn"})):
            note_step(asked, user, method, reauthenticated=True, **more)
        asked.session.save()

    return prepare


def _wrong(world: World) -> Iterator[Row]:
    """What is seen when something is: as strangers see it, and as those who are signed in do."""
    for who in ("", "anna"):
        kind = "in" if who else "out"
        asked = _as(world.people.get(who))
        for status, name, view in (
            (400, "bad", lambda asked=asked: defaults.bad_request(asked, Exception())),
            (403, "forbidden", lambda asked=asked: defaults.permission_denied(asked, Exception())),
            (403, "csrf", lambda asked=asked: _page("403_csrf.html", asked, 403)),
            (429, "too-often", lambda asked=asked: _page("429.html", asked, 429)),
            (500, "defect", lambda asked=asked: defaults.server_error(asked)),
        ):
            yield Row(name=f"wrong-{name}-{kind}", path=f"/-/{name}/", who=who, status=status, made=view)
        yield Row(name=f"wrong-missing-{kind}", path="/nothing/", who=who, status=404)
    yield _row("wrong-refused", "web:agent", "olga", "?client=none-such", status=400, name="release-bot")
    provider = "socialaccount/authentication_error.html"
    yield Row(name="wrong-provider", path="/-/provider/", status=401, made=lambda: _page(provider, _as(None), 401))
    leave = {"url": "https://sso.example/authorize", "provider": "Northwind SSO"}
    yield Row(
        name="leave", path="/-/leave/", made=lambda: _halted(_page("account/leave.html", _as(None), 200, **leave))
    )


def _as(user: User | None) -> HttpRequest:
    from django.contrib.auth.models import AnonymousUser

    asked = RequestFactory(SERVER_NAME="localhost").get("/-/")
    asked.user = user or AnonymousUser()
    asked.session = {}  # type: ignore[assignment]
    asked.htmx = False  # type: ignore[attr-defined]
    return asked


def _page(template: str, asked: HttpRequest, status: int, **context: Any) -> HttpResponse:
    return HttpResponse(render_to_string(template, context, asked), status=status)


def _halted(page: HttpResponse) -> HttpResponse:
    """It would lead on by itself before anybody has looked."""
    assert b'http-equiv="refresh"' in page.content
    return HttpResponse(page.content.replace(b'http-equiv="refresh"', b'name="refresh"'))


def _mails(world: World) -> Iterator[Row]:
    """Each kind of message, as the browser of somebody's mail program shows it."""
    anna = world.people["anna"]
    for event in sorted([*TOLD_EVENTS, GRANT_EXPIRING]):
        glass = event.startswith("break_glass")
        asked = world.requests["break-glass" if glass else "live" if event.startswith("grant") else "waiting"]
        yield _mail(event, notice_of(_owed(event, anna), asked))
    yield _mail("extreme", notice_of(_owed("request.submitted", world.people["wide"]), world.requests["hostile"]))
    yield _mail("extreme-exact", notice_of(_owed("request.submitted", world.people["wide"]), world.requests["exact"]))
    tools = ["get_file", "force_push", "merge_pull_request", "create_release"]
    yield _mail("quarantine", quarantine_notice(_owed("tool.quarantined", anna), server="github", tools=tools))
    entry = Entry.objects.filter(event="webhook.created").latest("uid")
    entry.data = entry.data[:-1] + ',"why":"Nothing got through for 5 days."}'
    yield _mail("webhook", webhook_notice(_owed("webhook.disabled", anna), entry))


def _owed(event: str, user: User) -> Delivery:
    return Delivery(entry=uuid7(), event=event, user=user, channel="email", due_at=now())


def _mail(name: str, notice: Any) -> Row:
    def made() -> HttpResponse:
        mail.outbox.clear()
        email.send(notice)
        (message,) = mail.outbox
        ((content, _),) = message.alternatives  # type: ignore[attr-defined]
        return HttpResponse(content)

    return Row(name=f"mail-{name.replace('.', '-').replace('_', '-')}", path=f"/-/mail/{name}/", made=made)


# Of these, which Django makes alike for every model, there is one row for all, and none where nothing can be added.
OF_EVERY_MODEL = ("_history", "_delete", "_add")


def _admin(world: World) -> Iterator[Row]:
    yield _row("admin", "admin:index", "admin")
    yield _row("admin-app", "admin:app_list", "admin", app_label="jit_policy")
    for model in admin.site._registry:
        name = model._meta.model_name
        yield _row(f"admin-{name}s", f"admin:{model._meta.app_label}_{name}_changelist", "admin")


def _admin_forms(world: World) -> Iterator[Row]:
    asked = RequestFactory().get("/admin/")
    asked.user = world.people["admin"]
    for model, pages in admin.site._registry.items():
        start, name = f"admin:{model._meta.app_label}_{model._meta.model_name}", model._meta.model_name
        if pages.has_add_permission(asked):
            yield _row(f"admin-{name}-add", f"{start}_add", "admin")
        shown = pages.get_queryset(asked).first()
        assert shown is not None, f"no {name} to look at"
        yield _row(f"admin-{name}", f"{start}_change", "admin", object_id=shown.pk)
    role = world.known["role"].pk
    yield _row("admin-role-history", "admin:jit_policy_role_history", "admin", object_id=role)
    policy = world.known["policy"].pk
    yield _row("admin-policy-history", "admin:jit_policy_approvalpolicy_history", "admin", object_id=policy)
    yield _row("admin-team-delete", "admin:jit_identity_team_delete", "admin", object_id=world.cast.team.pk)
    bot = world.agents["release-bot"].pk
    yield _row("admin-token", "admin:jit_identity_agent_token", "admin", agent_id=bot)
    yield _row("admin-password", "admin:auth_user_password_change", "admin", id=world.people["anna"].pk)


ROOMS: dict[str, Callable[[World], Iterator[Row]]] = {
    "desk": _desk, "seen": _seen, "told": _told, "requests": _requests, "things": _things, "account": _account, "wrong": _wrong, "mail": _mails,
    "admin": _admin, "admin-forms": _admin_forms,
}  # fmt: skip
