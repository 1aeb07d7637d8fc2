from __future__ import annotations
import os

os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
from datetime import timedelta
import pytest
from jitaccess.identity.principal import Principal
from jitaccess.policy.delegations import delegate
from jitaccess.policy.services import save_role
from jitaccess.policy.policies import save_policy
from jitaccess.policy.models import Requestable
from jitaccess.store.clock import now
from requests_app.services import *
from tests.browser import launched
from tests.cast import OPERATOR, policy_document
from tests.web.test_whole_requests import *

for n in list(globals()):
    if n.startswith("test_"):
        del globals()[n]
STAGES = """
- name: all
  stages:
    - groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}, {name: paper, people: ["user:olga", "user:bert"], quorum: 1}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
  escalate: [{after: 30m, groups: [{name: managers, people: ["user:admin"], quorum: 1}]}]
  ticket: {required: false}
"""


@pytest.mark.django_db(transaction=True)
def test_pictures(live_server, cast, browser):
    args = {
        "repo_path": "/srv/repos/website",
        "message": "Release 2.4\n\n* new: search\n* gone: the old editor \u202eevil",
        "files": ["CHANGELOG.md", "README.md"],
        "options": {"amend": False, "sign": True, "retries": 3},
    }
    e = exact(cast, args, reason="The release notes are staged; commit them for v2.4.", ticket="OPS-7")
    cast.change_policy(rules=STAGES)
    delegate(
        person=cast.carl,
        to=cast.bert,
        ends_at=now() + timedelta(hours=8),
        operator=Principal.of_user(cast.carl).actor(),
        note="Holidays",
    )
    s = cast.submit("git_commit", "git_add", "git_reset", seconds=3600, principal=cast.principal(user=cast.olga))
    cast.approve(s, by=cast.anna)
    save_role(document=WRITER, operator=OPERATOR)
    cast.change_policy(step_up=True)
    r = submit(
        cast, roles=["writer"], starts_at=now() + timedelta(hours=3), context={"task": "release", "plan": ["a", "b"]}
    )
    cast.change_policy()
    g = cast.grant("git_add", seconds=3600)
    Requestable.objects.update(max_total_minutes=600)
    g.request.__class__.objects.filter(pk=g.request_id)
    other = save_policy(document=policy_document(name="harm"), operator=OPERATOR)
    Requestable.objects.update(access="write")
    Requestable.objects.create(server=cast.server, access="destructive", max_minutes=60, policy=other)
    b = submit_bundle(
        principal=cast.principal(),
        ask=Ask(reason="Both", tools=[("git", "git_commit"), ("git", "git_reset")], seconds=600),
        snapshot=cast.snapshot(),
    )
    with launched() as chrome:

        def shots(user, name, path, **opt):
            for mode, o in (
                ("light", {}),
                ("dark", {"color_scheme": "dark"}),
                ("phone", {"viewport": {"width": 390, "height": 844}}),
            ):
                ctx = chrome.new_context(**{**o})
                c = browser(user).cookies["sessionid"].value
                ctx.add_cookies([{"name": "sessionid", "value": c, "url": live_server.url}])
                page = ctx.new_page()
                page.goto(live_server.url + path)
                if opt.get("open"):
                    page.evaluate("document.querySelectorAll('details').forEach(d=>d.open=true)")
                w = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                print(name, mode, w)
                page.screenshot(path=f"/tmp/shots/{name}-{mode}.png", full_page=True)
                ctx.close()

        shots(cast.anna, "exact", url(e), open=True)
        shots(cast.bert, "stages", url(s), open=True)
        shots(cast.anna, "role", url(r))
        shots(cast.anna, "bundle", url(b[0].request))
        shots(cast.anna, "inbox", "/")
        shots(cast.carl, "away", "/away/")
        shots(cast.anna, "reauth", "/accounts/reauthenticate/?next=/")
