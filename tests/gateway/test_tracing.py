"""Whose trace a call belongs to: what the client says reaches the server behind the gateway, where it may."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitaccess.gateway import tracing
from tests.cast import Cast
from tests.gateway.harness import META, Client, Served, echo
from tests.installation import ROOT

pytestmark = pytest.mark.django_db(transaction=True)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-01"


def _call(client: Client, meta: dict[str, Any], **headers: str | None) -> None:
    params = {"name": "git_log", "arguments": {}} | ({"_meta": meta} if meta else {})
    answer = client.post(client.message("tools/call", params), **headers)
    assert "content" in answer.json()["result"], answer.text


def test_a_modern_server_is_told_what_the_client_said_and_nothing_when_it_said_nothing(
    agent: Client, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    _call(agent, META)
    _call(agent, META, traceparent=TRACE)
    _call(agent, META | {"traceparent": OTHER}, traceparent=TRACE)
    _call(agent, META | {"traceparent": "made up\r\n"}, traceparent="00-zz")
    _call(agent, META | {"traceparent": 7})
    told = [params["_meta"].get("traceparent") for params in sent()]
    assert told == [None, TRACE, OTHER, None, None]


def test_a_server_of_the_older_era_is_not_told(
    cast: Cast, start: Callable[..., Served], record: Path, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    served = start({"git": echo(record, era="legacy")})
    with served.client(cast) as client:
        _call(client, META | {"traceparent": TRACE}, traceparent=TRACE)
    assert len(sent()) == 1
    assert "traceparent" not in json.dumps(sent())


def test_without_an_exporter_a_span_is_nothing_at_all() -> None:
    assert tracing.span("admit", server="git") is tracing.span("forward") is tracing.receive("tools/call")


def test_who_wants_traces_without_the_extra_reads_what_to_install() -> None:
    # -S -I and a blocked import: whether the extra is installed beside the tests must not matter.
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from jitaccess.gateway import tracing\n"
        "try:\n    tracing.set_up()\nexcept Exception as error:\n    print(error.detail)\n"
    )
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True)
    assert said.stdout.strip() == (
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but traces need: pip install 'jitaccess[otel]'."
    )
