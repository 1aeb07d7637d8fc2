"""AuthZEN against a running server: the cases of the certification scenario, and a real nginx that asks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import nursery
from tests.installation import ROOT, Installation, Process, eventually, free_port
from tests.nginx import nginx

PDP = "https://pdp.example.test"
FILE = """\
kind: authzen
version: v1
spec:
  enforcement_points: [records-app]
  subjects:
    user: {agent: records-app}
  resources:
    record:
      server: records
      actions: {read: read_record, write: write_record, delete: delete_record}
      arguments:
        id: resource.id
        status: resource.properties.status
        role: subject.properties.role
        soft: action.properties.soft
"""
LOCATIONS = """\
  locations:
    - {path: "/records/{id}", methods: [GET], tool: records/read_record}
    - {path: "/records/{id}", methods: [DELETE], tool: records/delete_record}
"""
# Real roles: alice writes what is not archived and deletes softly, bob reads, admins write what is archived.
FIXTURE = """
import django; django.setup()
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.identity.models import Team, User
from jitaccess.identity.services import create_agent, issue_token
from jitaccess.policy.models import RoleBinding, ServerAccess
from jitaccess.policy.services import bind_role, save_role
operator = Actor(user_name="operator")
alice, bob = (User.objects.create_user(username=name) for name in ("alice", "bob"))
team = Team.objects.create(name="records")
team.members.set([alice, bob])
owner = User.objects.filter(is_active=True).exclude(pk__in=[alice.pk, bob.pk]).first()
app = create_agent(name="records-app", owner=owner, team=team, operator=operator, users=[alice, bob])
server = register_server(slug="records", operator=operator)
names = ("read_record", "write_record", "delete_record")
tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
import_tools(server=server, definitions=tools, operator=operator)
for name, access in zip(names, ("read", "write", "destructive"), strict=True):
    classify_tool(tool=Tool.objects.get(server=server, name=name), access=access, operator=operator)
ServerAccess.objects.create(server=server).teams.add(team)
def role(name, *rules):
    lines = "".join(f"    - {{servers: [records], {rule}}}\\n" for rule in rules)
    head = f"kind: role\\nversion: v1\\nmetadata: {{name: {name}}}\\nspec:\\n  allow:\\n"
    return save_role(document=head + lines, operator=operator)
def bind(role, **whom):
    bind_role(role=role, operator=operator, **whom)
bind(role("records-app", "tools: ['*']"), agent=app)
bind(role("records-reader", "tools: [read_record]"), user=bob)
bind(
    role(
        "records-editor",
        "tools: [read_record]",
        "tools: [write_record], where: '!has(args.status) || args.status != \\"archived\\"'",
        "tools: [delete_record], where: 'has(args.soft) && args.soft == true'",
    ),
    user=alice,
)
admins = "has(args.role) && args.role == \\"admin\\" && has(args.status) && args.status == \\"archived\\""
bind(role("records-archivist", f"tools: [write_record], where: '{admins}'"), everyone="users")
print(issue_token(agent=app, ttl=3600, operator=operator)[0])
"""


class Site:
    """A running installation that knows the records of the scenario."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        script = [sys.executable, "-c", FIXTURE]
        env = installation.env | {"DJANGO_SETTINGS_MODULE": "jitaccess.settings"}
        made = subprocess.run(script, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        self.token = made.stdout.strip()
        self.words(FILE)
        port = free_port()
        process = Process(["up", "--port", str(port)], installation.env | {"JITACCESS_PUBLIC_URL": PDP})
        installation.processes.append(process)
        self.url = f"http://127.0.0.1:{port}"
        eventually(lambda: _status(f"{self.url}/readyz") == 200, within=60, what=lambda: process.output)
        self.http = httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)

    def words(self, text: str) -> None:
        (self.installation.var / "authzen.yaml").write_text(text)


@pytest.fixture(scope="module")
def site(first_start: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    installation = first_start.copy(tmp_path_factory.mktemp("authzen") / "var")
    nursery.put(installation.var)
    found = Site(installation)
    yield found
    found.http.close()
    installation.stop()


ALICE, BOB = {"type": "user", "id": "alice"}, {"type": "user", "id": "bob"}
ADMIN = BOB | {"properties": {"role": "admin"}}
READ, WRITE = {"name": "read"}, {"name": "write"}
SOFT, HARD = ({"name": "delete", "properties": {"soft": soft}} for soft in (True, False))
ONE, TWO = {"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}
ACTIVE, ARCHIVED = ONE | {"properties": {"status": "active"}}, TWO | {"properties": {"status": "archived"}}
TIME = {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}


def case(subject: Any, action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    return {"subject": subject, "action": action, "resource": resource} | more


DECISIONS = {
    "c-2-2-1": (case(ALICE, READ, ONE), True),
    "c-2-2-2": (case(BOB, WRITE, ONE), False),
    "c-2-2-3": (case(ALICE, READ, ONE, context=TIME), True),
    "c-2-2-4": (case(ALICE, WRITE, ARCHIVED), False),
    "c-2-2-5": (case(ADMIN, WRITE, ARCHIVED), True),
    "c-2-2-6": (case(ALICE, SOFT, ONE), True),
    "c-2-2-7": (case(ALICE, HARD, ONE), False),
    "c-2-2-8": (
        case(
            ALICE | {"properties": {"department": "Sales", "role": "manager"}},
            READ | {"properties": {"method": "GET"}},
            ONE | {"properties": {"status": "active", "owner": "bob"}},
        ),
        True,
    ),
    "c-2-2-9": (case(ALICE, READ, ONE, foo="bar", futureField={"nested": True}), True),
    "c-1-4 rule 2": (case(ALICE, WRITE, ONE), True),
    "c-1-4 rule 3": (case(BOB, READ, ONE), True),
}
WHOLE = case(ALICE, READ, ONE)
BAD = [
    *({name: value for name, value in WHOLE.items() if name != missing} for missing in WHOLE),
    WHOLE | {"subject": {"id": "alice"}},
    WHOLE | {"subject": {"type": "user"}},
    WHOLE | {"action": {}},
    WHOLE | {"resource": {"id": "record-1"}},
    WHOLE | {"resource": {"type": "record"}},
    WHOLE | {"subject": "alice"},
    WHOLE | {"action": {"name": 123}},
]
BATCHES: dict[str, tuple[dict[str, Any], list[bool | None]]] = {
    "c-3-2-1": (
        {"subject": ALICE, "action": READ, "evaluations": [{"resource": ONE}, {"resource": TWO}]},
        [True, None],
    ),
    "c-3-2-2": ({"subject": BOB, "resource": ONE, "evaluations": [{"action": READ}, {"action": WRITE}]}, [True, False]),
    "c-3-2-3": (
        {"subject": ALICE, "action": WRITE, "evaluations": [{"resource": ACTIVE}, {"resource": ARCHIVED}]},
        [True, False],
    ),
    "c-3-2-4": (
        {"action": WRITE, "resource": ARCHIVED, "evaluations": [{"subject": ALICE}, {"subject": ADMIN}]},
        [False, True],
    ),
    "c-3-2-5": ({"evaluations": [case(ALICE, READ, ONE), case(BOB, WRITE, ONE)]}, [True, False]),
    "c-3-2-6": (
        {
            "subject": ALICE,
            "action": READ,
            "context": TIME,
            "evaluations": [{"resource": ONE}, {"resource": TWO, "context": {"source": "batch-override"}}],
        },
        [True, None],
    ),
    "c-3-2-7": (case(ALICE, WRITE, ACTIVE, evaluations=[{}, {"resource": ARCHIVED}]), [True, False]),
    "c-3-4-1": (
        {
            "subject": ALICE,
            "action": READ,
            "options": {"evaluations_semantic": "execute_all"},
            "evaluations": [{"resource": ONE}, {}],
        },
        [True, False],
    ),
}


def test_the_basic_cases_of_the_certification_scenario(site: Site) -> None:
    for name, (asked, expected) in DECISIONS.items():
        answer = site.http.post("/access/v1/evaluation", json=asked)
        assert answer.status_code == 200, (name, answer.text)
        assert answer.headers["content-type"] == "application/json", name
        assert answer.json()["decision"] is expected, (name, answer.text)
        assert isinstance(answer.json().get("context", {}), dict), name
    for asked in BAD:
        assert site.http.post("/access/v1/evaluation", json=asked).status_code == 400, asked
    for raw, kind in ((b"{}", "text/plain"), (b"{", "application/json"), (b"", "application/json")):
        answer = site.http.post("/access/v1/evaluation", content=raw, headers={"Content-Type": kind})
        assert answer.status_code == 400, (raw, kind)
    named = site.http.post("/access/v1/evaluation", json=WHOLE, headers={"X-Request-ID": "bfe9eb29"})
    assert named.headers.get_list("x-request-id") == ["bfe9eb29"]
    repeated = {site.http.post("/access/v1/evaluation", json=WHOLE).json()["decision"] for _ in range(5)}
    assert repeated == {True}
    assert httpx2.post(f"{site.url}/access/v1/evaluation", json=WHOLE).status_code == 401


def test_the_batch_cases_of_the_certification_scenario(site: Site) -> None:
    for name, (asked, expected) in BATCHES.items():
        answer = site.http.post("/access/v1/evaluations", json=asked)
        assert answer.status_code == 200, (name, answer.text)
        found = [one["decision"] for one in answer.json()["evaluations"]]
        assert all(isinstance(one, bool) for one in found), name
        assert "decision" not in answer.json(), name
        fixed = [one if wanted is not None else None for one, wanted in zip(found, expected, strict=True)]
        assert fixed == expected, (name, answer.text)
    for asked in (WHOLE, WHOLE | {"evaluations": []}):  # c-3-4-2, c-3-4-3
        assert site.http.post("/access/v1/evaluations", json=asked).json() == {"decision": True}


def test_the_discovery_case_of_the_certification_scenario(site: Site) -> None:
    answer = httpx2.get(f"{site.url}/.well-known/authzen-configuration")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["policy_decision_point"] == PDP
    for name, value in told.items():
        if name.endswith(("_endpoint", "_uri")):
            assert value.startswith(f"{PDP}/access/v1/"), name
            assert site.http.get(value.removeprefix(PDP)).status_code in {200, 405}, name
    assert told["capabilities"] == ["urn:openid:authzen:capability:access-request"]
    assert not [name for name in told if name.startswith("search_")]


CONFIGURATION = """\
daemon off;
pid {folder}/pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{app};
        location / {{ return 200 "through"; }}
    }}
    server {{
        listen 127.0.0.1:{port};
{snippet}
    }}
}}
"""


def snippet(site: Site, app: int) -> str:
    """What the guide says, with the addresses of this test."""
    guide = (ROOT / "docs" / "guides" / "forward-auth.md").read_text(encoding="utf-8")
    found = guide.partition("```nginx\n")[2].partition("```")[0]
    assert "auth_request /_jitaccess;" in found
    return found.replace("http://127.0.0.1:8000", site.url).replace("http://127.0.0.1:9000", f"http://127.0.0.1:{app}")


@pytest.mark.nginx
def test_nginx_lets_through_what_is_allowed_and_nothing_else(site: Site, tmp_path: Path) -> None:
    program = nginx()
    assert program, "nginx is needed here: install it, or set JITACCESS_TEST_NGINX_PATH to its path."
    site.words(FILE + LOCATIONS)
    app, port = free_port(), free_port()
    file = tmp_path / "nginx.conf"
    text = CONFIGURATION.format(folder=tmp_path, app=app, port=port, snippet=snippet(site, app))
    file.write_text(text, encoding="utf-8")
    process = subprocess.Popen([program, "-p", str(tmp_path), "-c", str(file), "-e", "stderr"])
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _status(f"{url}/records/x") == 401, what="nginx listens")
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {site.token}"}) as agent:
            _ask_through(agent)
        stranger = httpx2.get(f"{url}/records/record-1")
        assert (stranger.status_code, "through" in stranger.text) == (401, False)
        assert stranger.headers["www-authenticate"] == 'Bearer realm="jitaccess"'
    finally:
        process.terminate()
        process.wait(10)
        site.words(FILE)


def _ask_through(agent: httpx2.Client) -> None:
    read = agent.get("/records/record-1")
    assert (read.status_code, read.text) == (200, "through")
    for method, path in (("POST", "/records/record-1"), ("GET", "/records/a/b"), ("GET", "/records/a%2fb")):
        refused = agent.request(method, path)
        assert (refused.status_code, refused.headers["x-jitaccess-reason"]) == (403, "authzen.no_location"), path
    forged = {
        "X-Jitaccess-Tool": "records/read_record",
        "X-Original-URI": "/records/record-1",
        "X-Original-Method": "GET",
    }
    assert agent.post("/records/record-1", headers=forged).status_code == 403


def _status(url: str) -> int:
    """0 while nobody listens."""
    try:
        return httpx2.get(url, timeout=5).status_code
    except httpx2.TransportError:
        return 0
