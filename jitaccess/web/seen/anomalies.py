"""What is out of the ordinary, by rule; its rows; and saying why one of them is in order. For auditors."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.text import visible
from jitaccess.store.clock import now
from jitaccess.web.seen.charts import number
from jitaccess.web.seen.sight import is_auditor
from requests_app import overview, selectors
from requests_app.anomalies import RULES, Finding, Rule, dismiss, dismissed, rule_of, unexplained
from requests_app.card.rows import cards_of_rows
from requests_app.pages import page, person_of, source_of

_ROWS = 200
_HEAD = [
    {"label": "Who or what", "kind": ""}, {"label": "What is unusual", "kind": ""}, {"label": "Rows", "kind": "num"},
    {"label": "Since", "kind": ""}, {"label": "", "kind": "fit"},
]  # fmt: skip


@page
@require_safe
def anomalies(request: HttpRequest) -> HttpResponse:
    _ensure_auditor(person_of(request))
    at = now()
    return render(request, "web/seen/anomalies.html", {"rules": counts_of(at), "now": at})


@page
@require_safe
def anomaly(request: HttpRequest, rule: str) -> HttpResponse:
    _ensure_auditor(person_of(request))
    one, at = rule_of(rule), now()
    if key := request.GET.get("of", ""):
        return _requests(request, one, key, at)
    rows = [_row(one, finding) for finding in unexplained(one, overview.findings(one, at), dismissed(at))]
    context = {"rule": one, "rows": rows, "head": _HEAD, "now": at}
    return render(request, "web/seen/anomaly.html", context)


@page(back="web:anomaly")
@require_POST
def explain(request: HttpRequest, rule: str) -> HttpResponse:
    """Dismiss one finding, with the reason."""
    user, one, at = person_of(request), rule_of(rule), now()
    _ensure_auditor(user)
    operator = Principal.of_user(user, source=source_of(request), client="web").actor()
    dismiss(rule=one, key=request.POST.get("key", ""), reason=request.POST.get("reason", ""), operator=operator, at=at)
    messages.success(request, "On record. It is not shown for thirty days.")
    return redirect("web:anomaly", rule=one.slug)


def counts_of(at: datetime) -> list[dict[str, Any]]:
    """Each rule with how much it finds."""
    n = overview.how_many(RULES, dismissed(at), at)
    return [
        {
            "title": rule.title,
            "about": rule.about,
            "url": reverse("web:anomaly", args=[rule.slug]),
            "n": n[rule.slug],
        }
        for rule in RULES
    ]


def _row(rule: Rule, finding: Finding) -> dict[str, Any]:
    if finding.activity:
        url = reverse("web:activity") + "?" + urlencode(finding.activity)
    else:
        url = reverse("web:anomaly", args=[rule.slug]) + "?" + urlencode({"of": finding.key})
    return {
        "finding": finding,
        "name": visible(finding.name, limit=150),
        "text": visible(finding.text, limit=300),
        "number": number(finding.number),
        "unit": rule.unit,
        "url": url,
        "explain": reverse("web:explain_anomaly", args=[rule.slug]),
        "hidden": [("key", finding.key)],
    }


def _requests(request: HttpRequest, rule: Rule, key: str, at: datetime) -> HttpResponse:
    """The requests behind one number: names and how they stand, which the ledger tells an auditor anyway."""
    finding = next((one for one in overview.findings(rule, at) if one.key == key), None)
    if finding is None:
        raise NotFound("anomaly.unknown", "That is not out of the ordinary any more.")
    shown = finding.requests[:_ROWS]
    found = selectors.requests_with_grants(shown)
    context = {
        "rule": rule,
        "row": _row(rule, finding),
        "rows": cards_of_rows([found[one] for one in shown if one in found], at),
        "more": finding.number - len(shown),
        "head": [{"label": label, "kind": ""} for label in ("Who", "Asked for", "Filed", "How it stands")],
        "now": at,
    }
    return render(request, "web/seen/anomaly_requests.html", context)


def _ensure_auditor(user: User) -> None:
    if not is_auditor(user):
        raise NotFound("anomaly.unknown", "There is no such page, or it is not for you.")
