"""No secret gets into the log, whichever way it is said."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from uuid import uuid4

import pytest

from jitaccess.kernel import discreet
from jitaccess.kernel.discreet import DiscreetFormatter, JsonFormatter, request_id
from jitaccess.kernel.ids import new_token

HIDDEN = ["correct horse battery staple", "p@ss/w:rd%", 'with "quotes" and \\ and ü', "k1-line-one\nk2-line-two"]


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What a handler with the formatter of the test's parameter writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param())
    logger = logging.getLogger("jitaccess.test")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def _break(log: logging.Logger, text: str) -> None:
    try:
        raise RuntimeError(text)  # noqa: TRY301
    except RuntimeError:
        log.exception("it broke")
        raise


@pytest.mark.parametrize("said", [DiscreetFormatter, JsonFormatter], indirect=True)
def test_secrets_are_masked_wherever_they_stand(said: io.StringIO) -> None:
    discreet.hide(*HIDDEN)
    tokens = [new_token("jit"), new_token("in")]
    texts = [
        *HIDDEN,
        *tokens,
        "Authorization: Bearer abc.def-ghi",
        "'authorization': 'Basic dXNlcjpwYXNzd29yZA=='",
        "postgresql://jit:db-secret@db.example/jit failed",
        "redis://:redis-secret@redis:6379/0",
        "https://x.test/sign-in/in_link_secret/",
        "https://x.test/?token=query-secret&page=2",
        '{"password": "json-secret"}',
    ]
    log = logging.getLogger("jitaccess.test")
    for text in texts:
        log.warning("it said %s", text)
        log.warning(text.replace("%", "%%"), extra={"client": text, "call": text})
        with contextlib.suppress(RuntimeError):
            _break(log, text)
    whole = said.getvalue()
    secrets = ["correct horse", "p@ss", "quotes", "line-one", "line-two", *tokens, "abc.def-ghi", "dXNlcjpwYXN"]
    secrets += ["db-secret", "redis-secret", "link_secret", "query-secret", "json-secret"]
    for secret in secrets:
        assert secret not in whole, secret
    assert "db.example" in whole
    assert "page=2" in whole
    assert whole.count("Traceback") == len(texts)


@pytest.mark.parametrize("said", [JsonFormatter], indirect=True)
def test_one_object_a_line_with_everything_a_reader_looks_for(said: io.StringIO) -> None:
    log = logging.getLogger("jitaccess.test")
    before = request_id.set("0af7651916cd43dd8448eb211c80319c")
    log.error("two\nlines \u2028 and a forged\n{}", extra={"call": "0198-call", "ms": 12, "request": object()})
    request_id.reset(before)
    log.debug("not said")
    log.warning("outside of a request")
    first, second = map(json.loads, said.getvalue().splitlines())
    assert first["message"] == "two\nlines \u2028 and a forged\n{}"
    assert (first["level"], first["logger"], first["call"], first["ms"]) == ("error", "jitaccess.test", "0198-call", 12)
    assert first["request_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "request" not in first
    assert first["time"].endswith("Z")
    assert datetime.fromisoformat(first["time"]).utcoffset() is not None
    assert "request_id" not in second


@pytest.mark.parametrize("said", [JsonFormatter], indirect=True)
def test_a_secret_is_masked_from_then_on_however_often_it_was_said_before(said: io.StringIO) -> None:
    log = logging.getLogger("jitaccess.test")
    secret = f"learned-later-{new_token('x')[2:12]}"
    for _ in range(3):
        log.warning("it said %s", secret, extra={"path": f"/mcp/{secret}"})
    assert said.getvalue().count(secret) == 6
    said.truncate(said.seek(0))
    discreet.hide(secret)
    for _ in range(3):
        log.warning("it said %s", secret, extra={"path": f"/mcp/{secret}"})
    assert len(said.getvalue().splitlines()) == 3
    assert secret not in said.getvalue()


@pytest.mark.parametrize("said", [JsonFormatter], indirect=True)
def test_ids_are_said_as_text_and_what_is_no_value_not_at_all(said: io.StringIO) -> None:
    call, request = uuid4(), uuid4()
    extra = {"call": call, "request": request, "grant": None, "client": object(), "ms": 1.5}
    logging.getLogger("jitaccess.test").warning("a call", extra=extra)
    line = json.loads(said.getvalue())
    assert (line["call"], line["request"], line["ms"]) == (str(call), str(request), 1.5)
    assert "grant" not in line
    assert "client" not in line


def test_what_is_short_or_ordinary_is_left_alone() -> None:
    discreet.hide("", "short")
    text = "a short sentence about the token of demo-agent, see https://x.test/a@b: token expired"
    assert discreet.discreet(text) == text
