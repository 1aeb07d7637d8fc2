"""An installation with tools is upgraded: what was reviewed is known where nothing has changed since."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection

from jitaccess.catalog.models import Server, Tool
from jitaccess.catalog.services import import_tools
from jitaccess.store.triggers import missing
from tests.cast import Cast, definition

# SQLite writes every table anew for every column that comes or goes: a minute for the same Python.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgresql_only]


def test_what_was_reviewed_is_kept_and_what_changed_since_is_not_guessed(cast: Cast) -> None:
    offered = [
        definition(name, description="other" if name == "git_log" else f"The tool {name}") for name in cast.tools
    ]
    import_tools(server=cast.server, definitions=offered, operator=cast.operator)
    try:
        call_command("migrate", "jit_catalog", "0001", verbosity=0)
    finally:
        call_command("migrate", verbosity=0)
    assert missing(connection) == []
    for tool in Tool.objects.all():
        assert tool.pinned_definition == ("" if tool.name == "git_log" else tool.definition)
    assert set(Server.objects.values_list("transport", "url", "era", "shared")) == {("stdio", "", "auto", False)}
