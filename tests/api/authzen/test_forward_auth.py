"""Forward-auth: 200, 401 or 403 from headers that the web server sets, never from what a caller sends for itself."""

from __future__ import annotations

from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.services import set_agent_enabled
from jitaccess.policy.models import BindingUse
from tests.api.authzen.conftest import Pdp, bearing, signed_in
from tests.cast import OPERATOR, Cast

pytestmark = pytest.mark.django_db
LOCATIONS = """\
  locations:
    - {path: "/log", methods: [GET, HEAD], tool: git/git_log}
    - {path: "/commits/{message}", methods: [POST], tool: git/git_commit}
"""


def asked(pdp: Pdp, tool: str) -> Any:
    return pdp.get("forward-auth", X_Jitaccess_Tool=tool)


def located(pdp: Pdp, method: str, uri: str, **headers: str) -> int:
    answer = pdp.get("forward-auth", X_Original_Method=method, X_Original_URI=uri, **headers)
    return int(answer.status_code)


def test_it_is_the_decision_that_an_evaluation_gets(cast: Cast, pdp: Pdp):
    allowed = asked(pdp, "git/git_log")
    assert (allowed.status_code, allowed.headers["X-Jitaccess-Reason"]) == (200, "allowed")
    assert allowed.headers["X-Jitaccess-Agent"] == "demo-agent"
    denied = asked(pdp, "git/git_commit")
    assert (denied.status_code, denied.headers["X-Jitaccess-Reason"]) == (403, "approval_required")
    cast.grant("git_commit")
    assert asked(pdp, "git/git_commit").status_code == 200
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    assert asked(pdp, "git/git_log").headers["X-Jitaccess-Reason"] == "locked_down"


def test_what_is_hidden_is_refused_like_what_does_not_exist(cast: Cast, pdp: Pdp):
    cast.requestable.delete()
    answers = [asked(pdp, tool) for tool in ("git/git_commit", "git/nothing", "nowhere/x")]
    assert {(one.status_code, one.headers["X-Jitaccess-Reason"]) for one in answers} == {(403, "unknown")}
    assert len({one.content for one in answers}) == 1


def test_only_a_missing_credential_is_401_and_everything_else_403(cast: Cast, pdp: Pdp):
    stranger = asked(bearing("jit_nonsense"), "git/git_log")
    assert (stranger.status_code, stranger.headers["X-Jitaccess-Reason"]) == (401, "token.invalid")
    assert stranger.headers["WWW-Authenticate"] == 'Bearer realm="jitaccess"'
    for tool in ("", "git"):
        nothing = asked(pdp, tool)
        assert (nothing.status_code, nothing.headers["X-Jitaccess-Reason"]) == (403, "authzen.no_tool")
    both = signed_in(cast.admin)
    both.headers.update(pdp.headers)
    assert asked(both, "git/git_log").headers["X-Jitaccess-Reason"] == "auth.both"
    assert asked(both, "git/git_log").status_code == 403
    assert pdp.post("forward-auth", {}).status_code == 405


def test_a_call_that_is_let_through_is_one_use(cast: Cast, pdp: Pdp):
    binding = cast.limited(2)
    assert [asked(pdp, "git/git_commit").status_code for _ in range(3)] == [200, 200, 403]
    assert asked(pdp, "git/git_commit").headers["X-Jitaccess-Reason"] == "used_up"
    assert BindingUse.objects.get(binding=binding).left == 0
    assert Entry.objects.filter(event="grant.used", grant=binding.origin_id).count() == 2


def test_locations_are_the_operators_and_headers_of_callers_are_not_read_beside_them(pdp: Pdp, words: Any):
    assert located(pdp, "GET", "/log") == 403
    words(LOCATIONS)
    assert located(pdp, "GET", "/log") == 200
    assert located(pdp, "HEAD", "/log?full=1") == 200
    assert located(pdp, "POST", "/log") == 403
    assert located(pdp, "POST", "/commits/fix") == 403
    assert located(pdp, "DELETE", "/elsewhere", X_Jitaccess_Tool="git/git_log") == 403
    assert asked(pdp, "git/git_log").headers["X-Jitaccess-Reason"] == "authzen.no_location"


ODD = "/log# /log?a#b /log/ //log /log/../log /./log /x/%2e%2e/log /log%2f /%ff /log;v=1 \\log log /commits/a%2fb /commits/%252e"


def test_a_path_that_could_be_read_in_two_ways_is_no_location(cast: Cast, pdp: Pdp, words: Any):
    words(LOCATIONS)
    cast.grant("git_commit")
    assert located(pdp, "POST", "/commits/fix") == 200
    for uri in (*ODD.split(), "", "/commits/a%00", "/commits/"):
        assert [located(pdp, method, uri) for method in ("GET", "POST")] == [403, 403], uri


def test_people_go_through_the_agent_that_the_operator_named(cast: Cast, words: Any):
    cast.agent.users.add(cast.anna)
    anna = signed_in(cast.anna)
    assert asked(anna, "git/git_log").headers["X-Jitaccess-Reason"] == "authzen.not_an_agent"
    words("  subjects: {user: {agent: demo-agent}}\n")
    assert asked(anna, "git/git_log").status_code == 200
    assert asked(anna, "git/git_commit").status_code == 403
    assert asked(signed_in(cast.carl), "git/git_log").headers["X-Jitaccess-Reason"] == "locked_down"


def test_a_file_that_cannot_be_read_lets_nothing_through(pdp: Pdp, words: Any):
    words("  locations: yes\n")
    answer = asked(pdp, "git/git_log")
    assert (answer.status_code, answer.headers["X-Jitaccess-Reason"]) == (503, "authzen.file")
    words("  subjects: {}\n")
    assert asked(pdp, "git/git_log").status_code == 200
