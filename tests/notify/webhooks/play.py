"""What the tests of webhooks do again and again."""

from __future__ import annotations

from jitaccess.audit.sequencer import sequence
from jitaccess.notify.webhooks.delivering import due_endpoints, work
from jitaccess.notify.webhooks.models import Endpoint
from jitaccess.notify.webhooks.owed import owe
from jitaccess.notify.webhooks.services import create_endpoint
from tests.cast import OPERATOR, Cast


def endpoint(cast: Cast, url: str, events: str = "request.*", **options: object) -> tuple[Endpoint, str]:
    """An endpoint that olga made, and its secret; what happened before is nothing to it."""
    values = {"name": "hook", "team": None, "owner": cast.olga, "operator": OPERATOR} | options
    made = create_endpoint(url=url, events=events, **values)  # type: ignore[arg-type]
    catch_up()
    return made


def catch_up() -> None:
    while sequence() + owe():
        pass


def deliver() -> int:
    """One round for each endpoint that has something due."""
    catch_up()
    return sum(work(one) for one in due_endpoints())
