"""`jitaccess export`: what it gives, `apply` finds nothing to change with."""

from __future__ import annotations

import stat
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jitaccess.catalog.http_servers import add_http_server
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.options import BOUNDS, NAMES
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.identity.models import Agent
from jitaccess.identity.services import create_agent
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import Requestable, Role, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from jitaccess.runtime.access_files import exporting
from jitaccess.runtime.access_files.documents import Key, Reading, normal, read_document, read_files, split
from jitaccess.runtime.access_files.shapes import spell_minutes, spell_moment
from jitaccess.runtime.access_files.state import State, in_order, read_now
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast, definition
from tests.runtime.access_files import POLICY, apply, people, problems, role

PEOPLE = ("anna", "bert", "o'brien@example.test", "用户", "no", "1")
SLUGS = st.sampled_from(["a", "b-2", "no", "true", "007", "x" * 32, "null", "1e3"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30).map(str.strip)
LABELS = st.dictionaries(st.sampled_from(["env", "n.o", "x-y"]), st.sampled_from(["prod", "1", "no", "a:b"])).map(
    lambda labels: dict(sorted(labels.items()))
)
OPTIONS = st.fixed_dictionaries(
    {name: st.integers(*BOUNDS[name]) if name in BOUNDS else st.booleans() for name in NAMES}
)
USERS = st.sets(st.sampled_from(PEOPLE)).map(sorted)


def minutes(least: int, most: int) -> st.SearchStrategy[str]:
    return st.integers(least, most).map(spell_minutes)


@st.composite
def worlds(draw: Any) -> State:
    """A configuration that files can make on an empty installation."""
    state: State = {}
    teams = draw(st.lists(SLUGS, min_size=1, max_size=3, unique=True))
    roles = draw(st.lists(SLUGS, min_size=1, max_size=2, unique=True))
    some_teams = st.sets(st.sampled_from(teams)).map(sorted)
    for team in teams:
        state[Key("team", team)] = {"members": draw(USERS)}
    state[Key("approval-policy", "reviewed")] = {"document": POLICY.replace("team:demo", "user:anna")}
    for name in roles:
        state[Key("role", name)] = {
            "document": f"{role(name)}{draw(st.sampled_from(['', '# a note', '#']))}".strip() + "\n"
        }
    for name in draw(st.lists(SLUGS, max_size=2, unique=True)):
        state[Key("agent", name)] = {
            "description": draw(TEXTS),
            "owner": draw(st.sampled_from(PEOPLE)),
            "team": draw(st.sampled_from(teams)),
            "users": draw(USERS),
            "labels": draw(LABELS),
            "enabled": draw(st.booleans()),
        }
    asked = st.fixed_dictionaries(
        {
            "tools": st.sets(st.sampled_from(["git_*", "^x$", "*", "a"]), min_size=1).map(sorted),
            "access": st.sets(st.sampled_from(["read", "write"])).map(sorted),
            "team": st.sampled_from(["", *teams]),
            "arguments": st.sampled_from(["any", "schema", "exact"]),
            "max_duration": minutes(1, 240),
            "max_total": st.one_of(st.just(""), minutes(240, 9000)),
            "max_advance": minutes(0, 9000),
            "max_uses": st.integers(0, 3),
            "approval": st.just("reviewed"),
        }
    )
    for name in draw(st.lists(SLUGS, max_size=2, unique=True)):
        over_http = {
            "url": "https://mcp.example.com/mcp",
            "era": draw(st.sampled_from(["auto", "modern"])),
            "shared": draw(st.booleans()),
        }
        state[Key("server", name)] = {
            "description": draw(TEXTS),
            **draw(st.sampled_from([{}, over_http])),
            "instructions": draw(TEXTS),
            "enabled": draw(st.booleans()),
            "owner_team": draw(st.sampled_from(["", *teams])),
            "labels": draw(LABELS),
            "access": draw(st.one_of(st.just("every-team"), some_teams)),
            "options": draw(OPTIONS),
            "tools": {},
            "requestables": in_order(draw(st.lists(asked, max_size=2))),
        }
    subjects = ["every-agent", "every-user", *(f"team:{name}" for name in teams), *(f"user:{name}" for name in PEOPLE)]
    for name, origin, to in draw(
        st.sets(
            st.tuples(
                st.sampled_from(roles), st.sampled_from(["default", "standing", "ceiling"]), st.sampled_from(subjects)
            )
        )
    ):
        until = draw(
            st.one_of(
                st.just(""), st.datetimes(timezones=st.just(UTC)).filter(lambda at: at.year > 2100).map(spell_moment)
            )
        )
        state[Key("binding", f"{name} {origin} {to}")] = {"until": until}
    return state


def read(state: State) -> Reading:
    reading = Reading()
    for offset, text in split(exporting.as_text(state)):
        for one in read_document(text, offset=offset):
            reading.add(one)
    return reading


@pytest.mark.pure
@given(worlds())
@settings(max_examples=25, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
def test_what_is_exported_reads_as_what_was_there(state: State) -> None:
    reading = read(state)
    assert not reading.problems
    assert set(reading.wanted) == set(state)
    for key, one in reading.wanted.items():
        expected = dict(state[key])
        got = dict(one.value)
        if "requestables" in got:
            got["requestables"] = in_order(got["requestables"])
        assert got == expected


@pytest.mark.django_db
@given(worlds())
@settings(
    max_examples=8,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_an_export_makes_the_same_installation_elsewhere(state: State) -> None:
    with transaction.atomic():
        people(*PEOPLE)
        plan = apply(read(state))
        assert not plan.problems, problems(plan)
        there = read_now().state
        assert there == state
        again = apply(read(there), prune=True)
        assert (again.changes, again.problems) == ([], [])
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_what_admins_made_comes_back_unchanged(tmp_path: Path, cast: Cast) -> None:
    """Odd line ends, directives and leftovers in texts; rights given twice; tools in every state."""
    save_role(document=f"# yaml-language-server: $schema=x\n---\r\n{role('odd')}\n\n", operator=OPERATOR)
    policy = save_policy(document=POLICY, operator=OPERATOR)
    for until in (None, now() + timedelta(hours=3)):
        bind_role(role=cast.read_only, team=cast.team, operator=OPERATOR, expires_at=until)
        bind_role(
            role=cast.read_only, user=cast.carl, operator=OPERATOR, expires_at=until or now() + timedelta(hours=1)
        )
    bind_role(role=cast.read_only, agent=cast.agent, origin=RoleBinding.Origin.CEILING, operator=OPERATOR)
    Agent.objects.filter(pk=cast.agent.pk).update(description="  padded ", labels='{"b": "1", "a": "2"}')
    server = add_http_server(
        slug="web", url="https://mcp.example.com/mcp", operator=OPERATOR, instructions="a\n\n---\nb\n"
    )
    Requestable.objects.create(server=server, tools="b, a,a", access="write", policy=policy, max_minutes=61)
    Requestable.objects.create(server=server, tools="a, b", access="write", policy=policy, max_minutes=61)
    ServerAccess.objects.create(server=server, every_team=True).teams.add(cast.team)
    import_tools(
        server=cast.server,
        definitions=[
            definition("git_log", description="new"),
            definition("fresh"),
            definition("x" * 127),
            definition("x" * 126),
        ],
        operator=OPERATOR,
    )
    for tool in Tool.objects.filter(name__startswith="xxx"):
        classify_tool(tool=tool, access=AccessClass.WRITE, operator=OPERATOR)
    Tool.objects.filter(name="fresh").update(labels='{"data": "pii"}')
    Server.objects.filter(slug="git").update(url="")
    written = exporting.write(read_now().state, tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == [
        "agents/demo-agent.yaml",
        "approval-policies/review.yaml",
        "approval-policies/reviewed.yaml",
        "bindings.yaml",
        "roles/odd.yaml",
        "roles/read-only.yaml",
        "servers/git.yaml",
        "servers/web.yaml",
        "teams.yaml",
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in written)
    plan = apply(read_files([tmp_path / "out"]), prune=True)
    assert not plan.problems, problems(plan)
    assert plan.changes == []
    assert Role.objects.get(name="odd").head == 1
    assert exporting.write(read_now().state, tmp_path / "out") == written, "again, over its own files"


@pytest.mark.django_db
def test_an_export_keeps_pins_so_that_elsewhere_only_the_same_definition_is_reviewed(cast: Cast) -> None:
    text = dict(exporting.documents(read_now().state))[Key("server", "git")]
    assert f"pin: {cast.tools['git_log'].digest}" in text
    assert "sealed" not in text


@pytest.mark.django_db
def test_an_export_does_not_mix_with_what_is_not_there_any_more(tmp_path: Path, cast: Cast) -> None:
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "gone.yaml").write_text(role("gone"))
    with pytest.raises(Conflict, match=r"roles/gone\.yaml"):
        exporting.write(read_now().state, tmp_path)
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["gone.yaml"]


@pytest.mark.pure
def test_a_text_that_cannot_be_split_is_left_as_it_is() -> None:
    assert normal("--- {kind: role}\n") == "--- {kind: role}\n"
    assert normal(f"{role('a')}---\n{role('b')}") == f"{role('a')}---\n{role('b')}"


@pytest.mark.django_db
def test_reading_what_is_there_takes_as_many_queries_for_many_as_for_few(
    cast: Cast, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        create_agent(name=f"a{number}", owner=cast.olga, team=cast.team, operator=OPERATOR)
        ServerAccess.objects.create(server=register_server(slug=f"s{number}", operator=OPERATOR)).teams.add(cast.team)
        bind_role(role=save_role(document=role(f"r{number}"), operator=OPERATOR), user=cast.carl, operator=OPERATOR)
    with django_assert_max_num_queries(30):
        assert len(read_now().state) > 36
