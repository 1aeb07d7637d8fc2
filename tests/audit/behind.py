"""The database's owner, who takes the ledger's triggers away for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from jitaccess.audit.triggers import promise
from jitaccess.store.triggers import install


@contextmanager
def tampered(edit: Callable[[], object]) -> Iterator[None]:
    """The database after `edit`, with all triggers in their place again; afterwards it is as it was before.

    SQLite looks at its foreign keys in the end only.
    """
    postgresql = connection.vendor == "postgresql"
    with transaction.atomic(), connection.cursor() as cursor:
        if postgresql:
            cursor.execute("SET LOCAL session_replication_role = replica")
        else:
            for name in promise("sqlite").triggers:
                cursor.execute(f"DROP TRIGGER {name}")
        edit()
        if postgresql:
            cursor.execute("SET LOCAL session_replication_role = origin")
        else:
            install(connection, promise("sqlite"))
        yield
        transaction.set_rollback(True)


def run(statement: str, *parameters: object) -> Callable[[], object]:
    """An edit in SQL."""

    def edit() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            assert cursor.rowcount != 0, "nothing was edited"

    return edit
