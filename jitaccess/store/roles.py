"""Two database roles on PostgreSQL: the owner migrates, another runs, and that one can only add to the ledger."""

from __future__ import annotations

from django.apps import apps
from django.db import connection, transaction

from jitaccess.kernel.errors import Invalid, NotFound


def grant_running_role(role: str, *, append_only: tuple[str, ...]) -> None:
    """Give `role` what running needs on this database: no more than SELECT and INSERT on `append_only` tables, no DDL.

    Run it as the owner, again after each migration. Raises Invalid, NotFound.
    """
    if connection.vendor != "postgresql":
        raise Invalid("database.sqlite", "Roles are a matter of PostgreSQL: set DATABASE_URL to the owner's.")
    from psycopg import sql  # here: on SQLite every command would pay for it

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, rolsuper OR rolname = current_user FROM pg_roles WHERE rolname = %s", [role]
        )
        found = cursor.fetchone()
        if found is None:
            raise NotFound("role.unknown", f"There is no database role {role!r}: CREATE ROLE it first, with LOGIN.")
        if found[1]:
            raise Invalid(
                "role.owner", f"{role!r} is the owner or a superuser, whom no grant can hold back; use another."
            )
        who = sql.Identifier(role)
        tables = sql.SQL(", ").join(map(sql.Identifier, sorted(_tables())))
        kept = sql.SQL(", ").join(map(sql.Identifier, append_only))
        for statement in (
            sql.SQL("REVOKE ALL ON {} FROM {}").format(tables, who),
            sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(who),
            sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(who),
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}").format(tables, who),
            sql.SQL("REVOKE UPDATE, DELETE, TRUNCATE ON {} FROM {}").format(kept, who),
        ):
            cursor.execute(statement.as_string(cursor.connection))


def lacking_rights() -> list[str]:
    """Tables of ours that the role of this connection may not read or add to: it was not granted them after a
    migration.
    """
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL "
            "AND NOT (has_table_privilege(current_user, to_regclass(name), 'SELECT') "
            "AND has_table_privilege(current_user, to_regclass(name), 'INSERT'))",
            [sorted(_tables())],
        )
        return [row[0] for row in cursor.fetchall()]


def _tables() -> set[str]:
    return {model._meta.db_table for model in apps.get_models(include_auto_created=True) if model._meta.managed} | {
        "django_migrations"
    }
