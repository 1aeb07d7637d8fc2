"""Where the rows are that a number of the overview counts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

from django.urls import reverse


def rows_url(since: datetime, until: datetime, what: Mapping[str, str]) -> str:
    """The activity page with the entries that were counted."""
    between = {"since": f"{since:%Y-%m-%dT%H:%M}", "until": f"{until:%Y-%m-%dT%H:%M}"}
    return reverse("web:activity") + "?" + urlencode({**what, **between})
