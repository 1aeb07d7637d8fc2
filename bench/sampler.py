"""Run `jitaccess ARGUMENTS` as it is, and keep a record of where the time goes.

    python -m bench.sampler OUT gateway --port 0

Every few milliseconds a thread looks at what the others are doing (what waits for work is left out), and the steps of a
call are timed where they begin and end. OUT gets all of it as JSON when the process is stopped; moments are
CLOCK_MONOTONIC. What libuv and the other C parts of the event loop do has no frame and cannot be seen like this.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import django

EVERY = 0.004
DATABASE, FRAMEWORK, OTHER = "SQL: driver and database", "SQL: made by Django", "other"
# The innermost frame that one of these knows says to what a sample belongs; the first that fits.
PARTS = (
    ("/psycopg", DATABASE),
    ("/django/db/backends/", DATABASE),
    ("/jitaccess/store/sqlite/", DATABASE),
    ("/jitaccess/store/byhand.py", DATABASE),
    ("/django/", FRAMEWORK),
    ("/jitaccess/policy/", "policy"),
    ("/jitaccess/gateway/upstream/", "upstream"),
    ("/jitaccess/egress/", "upstream"),
    ("/jitaccess/gateway/http.py", "wire"),
    ("/jitaccess/gateway/app.py", "wire"),
    ("/jitaccess/gateway/wire.py", "wire"),
    ("/jitaccess/kernel/strictjson.py", "wire"),
    ("/jitaccess/runtime/", "wire"),
    ("/jitaccess/audit/", "ledger, without its SQL"),
    ("/jitaccess/", "rest of the gateway"),
    ("/uvicorn/", "uvicorn, asyncio"),
    ("/asyncio/", "uvicorn, asyncio"),
)
OURS = ("/jitaccess/", "/requests_app/")
# Every statement passes through them.
BETWEEN = ("/jitaccess/store/sqlite/", "/jitaccess/store/byhand.py", "/jitaccess/store/metrics.py")
# Where threads wait for work, unless it is for the database.
WAITS = ("/threading.py", "/queue.py", "/selectors.py", "/concurrent/futures/thread.py", "/asyncio/runners.py")
# The event loop, the batch writer, and who reads for other requests. The rest of `up` has its own work.
WATCHED = ("MainThread", "admission", "gateway-")

samples: list[tuple[float, str, str]] = []
steps: list[tuple[str, float, float, int]] = []
threads: dict[int, str] = {}


def place_of(frame: FrameType | None) -> tuple[str, str] | None:
    """To what part a stack belongs, and the innermost function of ours in it. None when it waits for work."""
    innermost, part, where, waits = "", "", "", False
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if not innermost:
            innermost = f"{'/'.join(Path(file).parts[-2:])} {function}"
            waits = file.endswith(WAITS)
        part = part or next((name for fragment, name in PARTS if fragment in file), "")
        if any(one in file for one in OURS) and not any(one in file for one in BETWEEN):
            where = f"{file.rpartition(next(one for one in OURS if one in file))[2]} {function}"
            break
        frame = frame.f_back
    if waits and part != DATABASE:
        return None
    return part or OTHER, where or innermost


def look() -> None:
    """Until the process ends."""
    while True:
        time.sleep(EVERY)
        at = time.monotonic()
        named = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the only way to see other threads
            thread = named.get(ident)
            if thread is None:
                continue
            threads[thread.native_id or 0] = thread.name
            if thread.name.startswith(WATCHED) and (found := place_of(frame)):
                samples.append((at, *found))


def timed(owner: Any, name: str, label: str, size: Callable[..., int] = lambda *_, **__: 1) -> None:
    """Time every call of a function or coroutine function; `size` says for how many calls of tools it is."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            steps.append((label, began, time.monotonic(), size(*args, **kwargs)))

    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return await function(*args, **kwargs)
        finally:
            steps.append((label, began, time.monotonic(), size(*args, **kwargs)))

    setattr(owner, name, awaited if function.__code__.co_flags & 0x80 else plain)


def timed_requests(application: Any) -> None:
    """Time each request until its answer is handed over: what is tidied up after that makes nobody wait."""
    serve = application.__call__

    async def answering(self: Any, scope: Any, receive: Any, send: Any) -> None:
        began = time.monotonic()

        async def sent(event: Any) -> None:
            await send(event)
            if event["type"] == "http.response.body" and not event.get("more_body"):
                steps.append(("request", began, time.monotonic(), 1))

        await serve(self, scope, receive, sent)

    application.__call__ = answering


def timed_packets() -> None:
    """On PostgreSQL the event loop writes most batches: from their decisions until their commit is heard of."""
    from jitaccess.gateway.recording import lane

    names = ("_packed", "_told", "_ended")
    packed, told, ended = (getattr(lane.Lane, name) for name in names)
    began: dict[int, float] = {}

    def packing(self: Any, *given: Any) -> Any:
        at = time.monotonic()
        batch, *rest = packed(self, *given)
        if batch is not None:
            began[id(batch)] = at
        return batch, *rest

    def telling(self: Any, batch: Any, result: Any) -> None:
        steps.append(("batch", began.pop(id(batch), time.monotonic()), time.monotonic(), len(batch.calls)))
        told(self, batch, result)

    def ending(self: Any, endings: Any, result: Any) -> None:
        now = time.monotonic()  # they went with the batch: nothing of their own
        steps.append(("endings", now, now, len(endings)))
        ended(self, endings, result)

    for name, instead in zip(names, (packing, telling, ending), strict=True):
        setattr(lane.Lane, name, instead)


def timed_short_calls() -> None:
    """Most calls have no request and no coroutine: see short.py. Those that turn to the long way are timed there."""
    from jitaccess.gateway.calling import short

    begun, heard, answered = short.ShortWay._begun, short.ShortCall.set_result, short.ShortCall._answer  # noqa: SLF001 - its steps
    marks: dict[int, list[float]] = {}

    def beginning(self: Any, *given: Any) -> Any:
        at = time.monotonic()
        one = begun(self, *given)
        if one is not None and one.future is None:
            marks[id(one)] = [at, time.monotonic()]
        return one

    def hearing(self: Any, admitted: Any) -> None:
        if (mark := marks.get(id(self))) is not None:
            mark.append(time.monotonic())
        heard(self, admitted)

    def answering(self: Any, answer: Any) -> None:
        came = time.monotonic()
        answered(self, answer)
        mark = marks.pop(id(self), [])
        if len(mark) == 3:
            steps.append(("admission", mark[1], mark[2], 1))
            steps.append(("forward", mark[2], came, 1))
            steps.append(("request", mark[0], time.monotonic(), 1))

    short.ShortWay._begun, short.ShortCall.set_result = beginning, hearing  # type: ignore[method-assign]  # noqa: SLF001 - that is timing it
    short.ShortCall._answer = answering  # type: ignore[method-assign]  # noqa: SLF001 - as the line before


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jitaccess.settings")
    django.setup()
    from jitaccess.gateway import app
    from jitaccess.gateway.calling import calls
    from jitaccess.gateway.recording import admission, endings
    from jitaccess.runtime import cli
    from jitaccess.store import byhand

    timed_requests(app.Application)
    timed_short_calls()
    timed(admission.Admission, "admit", "admission")
    timed(admission, "admit_batch", "batch", lambda intents, **_: len(intents))
    timed(calls, "_forward", "forward")
    timed(endings.Ends, "send", "endings", len)
    if not byhand.on_sqlite():
        timed_packets()
    sys.setswitchinterval(0.0005)  # or what does not give way would be sampled where it next does
    threading.Thread(target=look, name="sampler", daemon=True).start()
    try:
        return cli.main(sys.argv[2:])
    finally:
        told = {"samples": samples, "steps": steps, "threads": threads}
        Path(sys.argv[1]).write_text(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
