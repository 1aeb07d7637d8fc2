from __future__ import annotations

import functools
import gc
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from django.db import connection
from django.test import TransactionTestCase
from hypothesis import HealthCheck, settings

from tests import browser, databases, nginx
from tests.cast import Cast
from tests.cast_again import cast_again
from tests.clocks import Clock
from tests.entered import enter_before_reading
from tests.once import once

HERE = Path(__file__).parent
# Tests in these folders touch no database: one run of them is enough.
PURE = (
    "kernel", "policy/engine", "policy/approval", "gateway/upstream", "egress",
    # What people and programs see of rows: the statements behind it are run on both databases elsewhere.
    "web", "admin", "runtime", "api/authzen", "bench", "requests_app/card", "slack", "pages", "identity/oidc",
    "conformance", "flows",
)  # fmt: skip
# Most of what they do is wait for processes. They begin first, so that what only computes fills the pauses, and none of
# them is left alone at the end.
SLOW = ("conformance", "requests_app/machine", "faults/test_at_steps.py", "faults", "e2e", "bench")
# These are about the protocol: what is under it is either database.
ABOUT_THE_PROTOCOL = (
    "test_all_servers.py", "test_bodies.py", "test_headers.py", "test_http_upstreams.py", "test_methods.py",
    "test_tracing.py", "test_schemathesis.py", "test_openapi.py", "test_problems.py", "test_who_may.py",
    "test_lists_and_calls_agree.py", "test_subscriptions.py", "test_relay_clients.py", "test_relay_told.py", "test_prompts.py", "test_resources.py", "test_mirrored.py",
    "test_every_server.py", "test_identity.py", "test_known_bugs.py", "test_authzen.py", "test_slack.py", "test_slow_clients.py", "test_demo.py", "test_slow_servers.py", "test_offers_agree.py", "test_verbs.py",
)  # fmt: skip

settings.register_profile("default", max_examples=200, deadline=None, database=None, print_blob=True)
settings.register_profile(
    "nightly",
    settings.get_profile("default"),
    max_examples=5000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("JITACCESS_HYPOTHESIS", "default"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nginx: needs an nginx, which CI insists on")
    _keep_off_the_network()
    enter_before_reading()
    # Every client makes one, which costs more than most of what it asks; nothing on loopback is encrypted.
    httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)
    gc.disable()  # until everything is collected: nothing of it is garbage


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The second run does not even read what it would leave out."""
    wanted = config.option.markexpr.startswith("not pure") and _is_pure(collection_path)
    return True if wanted else None


def pytest_collection_finish() -> None:
    """Thousands of tests, and all that they import, are for ever: looking through them at each full collection is slow."""
    gc.enable()
    gc.freeze()


def _is_pure(path: Path) -> bool:
    return f"{path}/".startswith(tuple(f"{HERE}/{folder}/" for folder in PURE)) or path.name in ABOUT_THE_PROTOCOL


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("JITACCESS_TEST_DATABASE") != "postgresql":
        dropped = [item for item in items if item.get_closest_marker("postgresql_only")]
        _drop(config, items, dropped)
    if not browser.wanted():
        _drop(config, items, [item for item in items if item.get_closest_marker("browser")])
    if not nginx.wanted():
        _drop(config, items, [item for item in items if item.get_closest_marker("nginx")])
    for item in items:
        if _is_pure(item.path):
            item.add_marker(pytest.mark.pure)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The place of its folder in SLOW; all others come after them, as they were."""
    path = item.path.relative_to(HERE).as_posix()
    return next((number for number, start in enumerate(SLOW) if path.startswith(start)), len(SLOW))


def _drop(config: pytest.Config, items: list[pytest.Item], dropped: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


def _keep_off_the_network() -> None:
    """Whatever leaves this machine fails loudly. Not an OSError: code that bears with an outage would swallow it."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object) -> None:
        text = host.decode() if isinstance(host, bytes) else str(host or "localhost")
        try:
            local = ipaddress.ip_address(text.partition("%")[0]).is_loopback or text in {"0.0.0.0", "::"}
        except ValueError:
            local = text == "localhost" or text.endswith(".localhost") or text == socket.gethostname()
        if not local:
            raise AssertionError(f"A test tried to reach {text!r} on the network.")

    def guarded(real: Any) -> Any:
        def wrapper(self: socket.socket, address: Any) -> Any:
            if self.family in {socket.AF_INET, socket.AF_INET6}:
                check(address[0])
            return real(self, address)

        return wrapper

    def lookup(host: Any, *args: Any, **options: Any) -> Any:
        check(host)
        return getaddrinfo(host, *args, **options)

    socket.socket.connect = guarded(connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = guarded(connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = lookup


@pytest.fixture(scope="session")
def migrated(django_db_modify_db_settings: None, django_db_blocker: Any) -> str:
    """A database with nothing but the schema, to be copied: on SQLite its path, on PostgreSQL its URL. To migrate one takes
    five seconds, so that all workers of a run have the same.
    """
    with django_db_blocker.unblock():
        return once("migrated", databases.migrate).read_text()


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, migrated: str, django_db_blocker: Any) -> Iterator[None]:
    """Transactional tests are tidied up by databases.empty; Django's flush would be refused by our triggers."""
    flush = TransactionTestCase._fixture_teardown
    TransactionTestCase._fixture_teardown = lambda self: databases.empty()
    with django_db_blocker.unblock():
        databases.use_copy(migrated)
    yield
    TransactionTestCase._fixture_teardown = flush
    with django_db_blocker.unblock():
        databases.drop()


@pytest.fixture
def clock(db: None) -> Iterator[Clock]:
    """The database's clock, which can be shifted; put right afterwards."""
    clock = Clock()
    yield clock
    clock.restore()


@pytest.fixture
def cast(db: None) -> Cast:
    """The people, the agent and the git server that most tests play with."""
    return cast_again()


@pytest.fixture
def postgresql() -> bool:
    """Whether this run is on PostgreSQL."""
    return bool(connection.vendor == "postgresql")
