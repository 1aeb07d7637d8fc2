"""In production one database role migrates and another runs: the one that runs cannot change the ledger."""

from __future__ import annotations

import asyncio
import re
from uuid import uuid4

import psycopg
import pytest

from tests.installation import Installation, eventually
from tests.mcp_client import MODERN, connect

pytestmark = pytest.mark.postgresql_only


def test_the_running_role_does_everything_but_change_the_ledger(installation: Installation) -> None:
    role = f"jit_run_{uuid4().hex[:8]}"
    installation.execute(f"CREATE ROLE {role} LOGIN")
    owner = installation.database_url
    try:
        assert installation.cli("database", "grant", "nobody-here", check=False).returncode == 1
        assert "superuser" in installation.cli("database", "grant", "postgres", check=False).stderr
        installation.cli("database", "grant", role)
        installation.database_url = re.sub(r"//\w+@", f"//{role}@", owner)
        web, gateway = installation.start("web"), installation.start("gateway")

        async def use() -> None:
            async with connect(gateway.url, installation.ready_token, era=MODERN) as agent:
                assert not (await agent.call("git_status", repo_path=".")).is_error
                asked = await agent.call("request_access", tools=["git_add"], reason="to stage", minutes=5)
                anna = await asyncio.to_thread(installation.sign_in, "anna", web.url)
                request_id = asked.structured_content["request_id"]
                assert (await asyncio.to_thread(anna.decide, request_id, "approve")).status_code == 200
                assert not (await agent.call("git_add", repo_path=".", files=["notes.md"])).is_error

        asyncio.run(use())
        eventually(lambda: not installation.query("SELECT 1 FROM jit_audit_unsequenced"), what="sequenced")
        with psycopg.connect(installation.database_url, autocommit=True) as connection:
            for table in ("entry", "leaf", "node", "checkpoint"):
                for statement in (
                    f"DELETE FROM jit_audit_{table}",
                    f"TRUNCATE jit_audit_{table} CASCADE",
                    f"ALTER TABLE jit_audit_{table} DISABLE TRIGGER ALL",
                    f"DROP TABLE jit_audit_{table} CASCADE",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)
            for statement in (
                "UPDATE jit_audit_entry SET user_name = 'mallory'",
                "UPDATE jit_audit_leaf SET leaf_hash = ''",
                "UPDATE jit_audit_checkpoint SET note = ''",
                "SET session_replication_role = replica",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
            # A migration has made tables that are not granted yet: whoever runs already can still take access away.
            with psycopg.connect(owner, autocommit=True) as others:
                others.execute(f"REVOKE ALL ON jit_policy_policychange, jit_gateway_refusalcount FROM {role}")
            assert connection.execute("UPDATE jit_identity_agent SET enabled = false").rowcount
        refused = installation.cli("agents", "list", check=False)
        assert refused.returncode == 1
        assert "jitaccess database grant" in refused.stderr
    finally:
        installation.stop()
        installation.database_url = owner
        installation.execute(f"DROP OWNED BY {role}")
        installation.execute(f"DROP ROLE {role}")
